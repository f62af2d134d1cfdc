"""Model.encode: one vector for each text, whatever stands beside it."""

import numpy as np
import pytest
import torch

import bertwright
from bertwright.errors import UserError, WrongTypeError

TEXTS = ["A film.", "We saw a river and then another boat, twice and again." * 3, "The old boat.", "Rain"]


@pytest.fixture(scope="module")
def bundled():
    return bertwright.load()


@pytest.mark.slow
def test_vectors_do_not_depend_on_the_other_texts(bundled):
    together = bundled.encode(TEXTS)
    assert together.shape == (4, 256)
    assert together.dtype == np.float32
    alone = np.stack([bundled.encode(text) for text in TEXTS])
    cosines = (alone * together).sum(1) / np.linalg.norm(alone, axis=1) / np.linalg.norm(together, axis=1)
    assert (cosines > 0.9999).all()


@pytest.mark.slow
def test_the_default_is_the_mean_of_all_tokens_and_cls_is_the_first(bundled):
    encoder, tokenizer = bundled.pretrained.model.encoder, bundled.pretrained.tokenizer
    with torch.inference_mode():
        ids = torch.tensor([[tokenizer.cls_id, *tokenizer.encode([TEXTS[2]])[0].tolist(), tokenizer.sep_id]])
        hidden = encoder(ids, torch.zeros_like(ids))[0].numpy()
    for found, expected in (
        (bundled.encode(TEXTS[2]), hidden.mean(0)),
        (bundled.encode(TEXTS[2], pooling="cls"), hidden[0]),
    ):
        assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.9999
    assert not np.allclose(bundled.encode(TEXTS[2]), bundled.encode(TEXTS[2], pooling="cls"), rtol=0.1)


def test_shapes(bundled):
    assert bundled.encode("A film.").shape == (256,)
    assert bundled.encode(["A film."]).shape == (1, 256)
    assert bundled.encode([]).shape == (0, 256)
    assert bundled.encode("A film.", dimensions=64).shape == (64,)
    assert bundled.encode(["A film."], "cls", 64).shape == (1, 64)
    assert bundled.encode([], dimensions=64).shape == (0, 64)


@pytest.mark.slow
def test_a_long_text_gives_the_vector_of_its_beginning_with_a_warning(bundled):
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 512 tokens that the model reads"):
        found = bundled.encode(["old boat " * 400, "A film."])
    beginning = bundled.encode("old boat " * 255)
    assert found[0] @ beginning / np.linalg.norm(found[0]) / np.linalg.norm(beginning) > 0.9999


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda model: model.encode(["A film.", "\u200b"]), "text 2 of 2 has nothing to read"),
        (lambda model: model.encode("A film.", pooling="max"), "pooling is max; it must be mean or cls"),
        (lambda model: model.encode("A film.", dimensions=257), "dimensions is 257, and the model's vectors have 256"),
        (lambda model: model.encode("A film.", dimensions=0), "have 256 numbers; give 1 to 256"),
        (lambda model: model.encode("A film.", dimensions=0.5), "dimensions is 0.5"),
    ],
)
def test_mistakes_are_one_sentence(bundled, ask, expected):
    with pytest.raises(UserError, match=expected):
        ask(bundled)


def test_what_is_no_text_is_refused(bundled):
    with pytest.raises(WrongTypeError, match="text 2 is int"):
        bundled.encode(["A film.", 5])
