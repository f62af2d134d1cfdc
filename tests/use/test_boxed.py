"""The model in the box: small, documented, and of use without a network or a training."""

import pytest
import transformers

import bertwright
from bertwright.cli import main
from bertwright.files import read_json
from bertwright.model.interop import BOX
from conftest import ROOT


@pytest.fixture(scope="module")
def boxed():
    return bertwright.load("boxed")


def test_the_box_takes_at_most_24_megabytes():
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) <= 24e6


@pytest.mark.parametrize("part", ["encoder", "sentiment"])
def test_a_card_says_where_it_comes_from(part):
    card = (BOX / part / "README.md").read_text()
    for words in ("license: apache-2.0", "Commit ", "## Recipe", "name: imdb-mini", "## Limits", "bfloat16"):
        assert words in card


def test_plain_verdicts_are_right(boxed):
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
    assert [verdict.label for verdict in boxed.predict(good + bad)] == ["positive"] * 3 + ["negative"] * 3


def test_masks_are_filled_with_words_that_fit(boxed):
    guesses = [guess.token for guess in boxed.fill_mask("this is one of the worst [MASK] i have ever seen.")[0]]
    assert set(guesses) & {"movies", "films", "movie", "film"}


def test_next_sentences_and_features_are_there(boxed):
    assert 0 < boxed.next_sentence("The boat was old.", "It sank in May.") < 1
    assert boxed.embed(["A film to remember."])[0].pooled.shape == (256,)


def test_transformers_opens_both_parts():
    judge = transformers.pipeline("text-classification", model=str(BOX / "sentiment"), truncation=True)
    assert judge("A wonderful film, one of the best that I have ever seen.")[0]["label"] == "positive"
    fill = transformers.pipeline("fill-mask", model=str(BOX / "encoder"))
    assert len(fill("the [MASK] was old.")) == 5


def test_it_answers_where_no_model_is_named(capsys):
    assert main(["predict", "A wonderful film, one of the best that I have ever seen."]) == 0
    assert capsys.readouterr().out.startswith("positive")


@pytest.mark.parametrize("words", [[], ["--finetune.encoder", "boxed"]], ids=["classifier", "encoder"])
def test_a_recipe_can_begin_with_it(words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "run"
    words = [*words, "--finetune.epochs", "0.1", "--system.precision", "fp32"]  # one precision in a process: Accelerate
    assert main(["finetune", "recipes/demo-boxed.yaml", "--out", str(out), *words]) == 0
    layers = read_json(out / "finetune" / "seed-0" / "model" / "config.json")["num_hidden_layers"]
    assert layers == (2 if "boxed" in words else 3)  # the classifier has an averaging block on top
