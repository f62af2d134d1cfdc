"""Folders of sentence-transformers: the same vectors both ways, and what is not computed is refused."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import bertwright
from bertwright.apps.export import export
from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models.checkpoints import find_model, new_encoder, save_model
from bertwright.models.embedding_head import EmbeddingHead
from bertwright.models.heads import TaskModel
from bertwright.models.sentence_folder import Pooling, read_pooling
from bertwright.vectors import load_vector_model
from small_models import SHAPE, sentence_transformer, shaken

TEXTS = [
    "the cat sat on a mat",
    "Rain!",
    "nobody came to look for it while rain was falling over old roofs",
    "unseen Wörter",
]


def save(folder, tokenizer, pooling, max_length=64):
    torch.manual_seed(0)
    model = TaskModel(new_encoder(SHAPE, tokenizer.vocab_size), EmbeddingHead(pooling), ["similarity"], "embedding")
    with torch.no_grad():
        shaken(model, 0.2).encoder.token_embeddings.weight.mul_(5)
    save_model(model, tokenizer, folder, max_length)
    return folder


def in_float32(folder, texts, dimensions=None):
    """Vectors without the rounding of bfloat16."""
    encoder = bertwright.load(folder).text_encoder()
    model = load_vector_model(encoder.folder, replace(encoder.pooling, dimensions=None)).eval()
    return encoder_with(encoder, model).encode(texts, dimensions)[0]


def encoder_with(encoder, model):
    encoder.__dict__["model"] = model  # where the property keeps it
    return encoder


def theirs(folder, texts, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sentence_transformer(folder).encode(texts, **options)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_transformers_opens_our_folder_with_the_same_vectors(small_tokenizer, tmp_path, mode, normalize):
    folder = save(tmp_path / "model", small_tokenizer, Pooling(mode, normalize), max_length=12)
    expected = theirs(folder, TEXTS)  # of which one is longer than 12 tokens
    np.testing.assert_allclose(in_float32(folder, TEXTS), expected, rtol=1e-4, atol=1e-5)
    lengths = np.linalg.norm(expected, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == normalize
    assert read_pooling(folder) == Pooling(mode, normalize, 12)
    assert sentence_transformer(folder)[0].auto_model.pooler is None  # and none is made at random, with a warning


@pytest.mark.slow
def test_what_sentence_transformers_saves_is_opened_with_the_same_vectors(small_tokenizer, tmp_path):
    folder = save(tmp_path / "ours", small_tokenizer, Pooling("cls", normalize=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sentence_transformer(folder).save_pretrained(str(tmp_path / "theirs"))
    assert read_json(tmp_path / "theirs" / "1_Pooling" / "config.json")["pooling_mode"] == "cls"  # their newer form
    found = in_float32(tmp_path / "theirs", TEXTS)
    np.testing.assert_allclose(found, theirs(tmp_path / "theirs", TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_cut_as_sentence_transformers_cuts_them(small_tokenizer, tmp_path, normalize):
    folder = save(tmp_path / "model", small_tokenizer, Pooling(normalize=normalize))
    expected = theirs(folder, TEXTS, truncate_dim=16, normalize_embeddings=True)
    assert expected.shape == (4, 16)
    np.testing.assert_allclose(in_float32(folder, TEXTS, 16), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_size_that_a_folder_names_is_the_default(small_tokenizer, tmp_path):
    folder = save(tmp_path / "model", small_tokenizer, Pooling(normalize=True, dimensions=16))
    assert read_pooling(folder) == Pooling(normalize=True, max_length=64, dimensions=16)
    expected = theirs(folder, TEXTS, normalize_embeddings=True)
    assert expected.shape == (4, 16)
    np.testing.assert_allclose(in_float32(folder, TEXTS), expected, rtol=1e-4, atol=1e-5)
    more = theirs(folder, TEXTS, truncate_dim=24, normalize_embeddings=True)
    np.testing.assert_allclose(in_float32(folder, TEXTS, 24), more, rtol=1e-4, atol=1e-5)
    assert bertwright.load(folder).encode(TEXTS).shape == (4, 16)
    with torch.inference_mode():  # what is written as ONNX
        whole = load_vector_model(folder, read_pooling(folder)).eval()
        assert whole(torch.tensor([[5, 6]]), torch.zeros(1, 2, dtype=torch.long)).shape == (1, 16)


def test_vectors_in_bfloat16_have_the_same_direction(small_tokenizer, tmp_path):
    folder = save(tmp_path / "model", small_tokenizer, Pooling(normalize=True))
    fast, exact = bertwright.load(folder).encode(TEXTS), in_float32(folder, TEXTS)
    assert ((fast * exact).sum(1) > 0.9995).all()


def test_the_mean_leaves_padding_out_and_takes_the_frame_in():
    hidden = torch.arange(24.0).view(2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    found = EmbeddingHead(Pooling("mean"))(hidden, mask)
    assert torch.equal(found, torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)]))
    assert torch.equal(EmbeddingHead(Pooling("cls"))(hidden, mask), hidden[:, 0])


def test_a_causal_encoder_has_no_vector_at_cls():
    with pytest.raises(UserError, match="choose the pooling mean"):
        EmbeddingHead(Pooling("cls"), causal=True)


TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("modules.json", [TRANSFORMER, POOLING, DENSE], "has the modules Transformer, Pooling, Dense"),
        ("modules.json", [TRANSFORMER | {"path": "0_BERT"}, POOLING], "in the one that the first module names"),
        ("modules.json", [], "is not a list of modules"),
        ("modules.json", {"0": "Transformer"}, "is not a list of modules"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "asks for the pooling pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "asks for the pooling lasttoken; .* mean or cls"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "asks for the pooling cls, mean",
        ),
        ("1_Pooling/config.json", [], "does not hold the settings of a pooling"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            "puts a prompt before each text",
        ),
        (
            "config_sentence_transformers.json",
            {"truncate_dim": "16"},
            "truncate_dim is '16'; it must be a whole number",
        ),
        (
            "config_sentence_transformers.json",
            {"truncate_dim": 49},
            "truncate_dim of .* is 49, and the model's vectors have 48",
        ),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length is 2"),
        ("sentence_bert_config.json", {"max_seq_length": "64"}, "max_seq_length is '64'"),
        ("sentence_bert_config.json", ["64"], "does not hold settings by name"),
    ],
)
def test_what_is_not_computed_is_refused(small_tokenizer, tmp_path, file, content, expected):
    folder = save(tmp_path / "model", small_tokenizer, Pooling(normalize=True))
    write_json(folder / file, content)
    with pytest.raises(UserError, match=expected):
        bertwright.load(folder).encode("a cat")


def test_capitals_that_one_file_lowers_and_the_other_keeps_are_refused(small_tokenizer, tmp_path):
    folder = save(tmp_path / "model", small_tokenizer, Pooling())
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": True})
    assert read_pooling(folder) == Pooling(max_length=64)
    saved = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", saved | {"do_lower_case": False})
    with pytest.raises(UserError, match="the tokenizer keeps capitals"):
        read_pooling(folder)


def test_the_oldest_form_means_the_mean(small_tokenizer, tmp_path):
    folder = save(tmp_path / "model", small_tokenizer, Pooling("cls"))
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 48})
    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    (folder / "sentence_bert_config.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()
    assert read_pooling(folder) == Pooling("mean", normalize=False)
    assert read_pooling(tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0_Transformer", "0_BERT"])
def test_the_older_form_with_the_encoder_in_a_folder_of_its_own_is_opened_and_exported(small_tokenizer, tmp_path, name):
    flat = save(tmp_path / "flat", small_tokenizer, Pooling("cls", normalize=True), max_length=12)
    whole = tmp_path / "whole"
    shutil.copytree(flat, whole / name, ignore=shutil.ignore_patterns("modules.json", "?_*", "config_sent*"))
    for part in ("1_Pooling", "modules.json", "config_sentence_transformers.json"):
        (shutil.copytree if part == "1_Pooling" else shutil.copyfile)(flat / part, whole / part)
    write_json(
        whole / "modules.json",
        [one | ({} if one["idx"] else {"path": name}) for one in read_json(whole / "modules.json")],
    )
    expected = theirs(flat, TEXTS)
    for folder in (whole, whole / name):
        np.testing.assert_allclose(in_float32(folder, TEXTS), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(theirs(whole, TEXTS), expected, rtol=1e-4, atol=1e-5)  # the form is theirs
    assert bertwright.load(whole).name == "whole"
    assert find_model(whole, "encoder") == whole / name
    out = export(find_model(whole, "encoder"), tmp_path / "out", onnx=False, int8=False)
    np.testing.assert_allclose(theirs(out, TEXTS), expected, rtol=1e-4, atol=1e-5)
    write_json(whole / "modules.json", [TRANSFORMER | {"path": f"../whole/{name}"}, POOLING])
    with pytest.raises(UserError, match="neither a config"):
        bertwright.load(whole)
