"""The bundled model: small, documented, and of use without a network or a training."""

import numpy as np
import pytest
import torch
import transformers

import bertwright
from bertwright.cli import main
from bertwright.files import read_json
from bertwright.models.checkpoints import BUNDLED
from conftest import ROOT


@pytest.fixture(scope="module")
def bundled():
    return bertwright.load("bundled")


def test_the_bundled_model_takes_at_most_24_megabytes():
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) <= 24e6


@pytest.mark.parametrize("part", ["encoder", "sentiment"])
def test_a_card_says_where_it_comes_from(part):
    card = (BUNDLED / part / "README.md").read_text()
    for words in ("license: apache-2.0", "Commit ", "## Recipe", "name: imdb-mini", "## Limits", "bfloat16"):
        assert words in card
    assert "`transformers` computes in float32, Bertwright in bfloat16" in card
    # The run's recipe has the names of its time.
    assert "first_embeddings" not in card or "Written by version 0.1" in card


@pytest.mark.slow
def test_plain_reviews_are_classified_right(bundled):
    good = [
        "A wonderful film, one of the best that I have ever seen.",
        "I loved every minute of it; the acting is superb and the story moved me to tears.",
        "Funny, clever and beautifully shot. Highly recommended.",
    ]
    bad = [
        "What a waste of time. The plot makes no sense and the acting is terrible.",
        "The worst film of the year: dull, badly written and far too long.",
        "I could not wait for it to end. Avoid.",
    ]
    assert [prediction.label for prediction in bundled.predict(good + bad)] == ["positive"] * 3 + ["negative"] * 3


@pytest.mark.slow
def test_masks_are_filled_with_words_that_fit(bundled):
    tokens = [one.token for one in bundled.fill_mask("this is one of the worst [MASK] i have ever seen.")[0]]
    assert set(tokens) & {"movies", "films", "movie", "film"}


@pytest.mark.slow
def test_the_readme_s_examples_come_out_as_it_says(bundled):
    readme = (ROOT / "README.md").read_text()
    lovely, place = "One of the loveliest films I have seen in years.", "I went to the [MASK] to see a film."
    pair = ("The acting is good.", "But the story is weak.")
    assert all(text in readme for text in (lovely, place, "A film to remember.", *pair))
    found = bundled.predict([lovely, "A film to remember."])
    assert [one.label for one in found] == ["positive", "positive"]
    assert f"# {found[0].label}, {found[0].score:.2f}" in readme
    assert f"# {', '.join(one.token for one in bundled.fill_mask(place, top_k=3)[0])}" in readme
    assert bundled.next_sentence(*pair) > 0.55


def test_features_are_the_encoder_s_hidden_states(bundled):
    text = "A film to remember."
    features = bundled.embed([text], layers=1)[0]
    reference = transformers.AutoModel.from_pretrained(BUNDLED / "encoder", dtype=torch.float32).eval()
    ids = transformers.AutoTokenizer.from_pretrained(BUNDLED / "encoder")(text, return_tensors="pt")
    with torch.inference_mode():
        expected = reference(**ids)
    np.testing.assert_allclose(features.pooled, expected.pooler_output[0], atol=2e-5)
    np.testing.assert_allclose(features.mean, expected.last_hidden_state[0, 1:-1].mean(0), atol=2e-5)


def test_transformers_opens_both_parts():
    classify = transformers.pipeline("text-classification", model=str(BUNDLED / "sentiment"), truncation=True)
    assert classify("A wonderful film, one of the best that I have ever seen.")[0]["label"] == "positive"
    fill = transformers.pipeline("fill-mask", model=str(BUNDLED / "encoder"))
    assert len(fill("the [MASK] was old.")) == 5


@pytest.mark.slow
def test_it_answers_where_no_model_is_named(capsys):
    assert main(["predict", "A wonderful film, one of the best that I have ever seen."]) == 0
    assert capsys.readouterr().out.startswith("positive")


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--finetune.encoder", "bundled"]], ids=["classifier", "encoder"])
def test_a_recipe_can_begin_with_it(words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "run"
    words = [*words, "--finetune.epochs", "0.1", "--system.precision", "fp32"]  # one precision in a process: Accelerate
    assert main(["finetune", "recipes/demo-bundled.yaml", "--out", str(out), *words]) == 0
    layers = read_json(out / "finetune" / "seed-0" / "model" / "config.json")["num_hidden_layers"]
    assert layers == (2 if "bundled" in words else 3)  # the classifier has an averaging block on top
