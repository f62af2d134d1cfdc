"""Reasons for verdicts: on sentences whose answer is known, against the axiom, and against deletion."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

import bertwright
from bertwright.tasks.classify import windows
from bertwright.use.explain import as_html, as_terminal, explain, pieces

SAID = ("The river by the stone was new again. A {} film, {} from end to end.", "We saw a boat. A {} film.")


@pytest.fixture(scope="module")
def model(finished):
    return bertwright.load(finished)


@pytest.mark.parametrize(("word", "label"), [("wonderful", "positive"), ("dreadful", "negative")])
@pytest.mark.parametrize("sentence", SAID)
def test_the_word_that_decides_is_the_heaviest(model, sentence, word, label):
    found = explain(model, sentence.format(word, word))
    assert found.verdict.label == label
    assert max(found.words, key=lambda w: w.weight).text == word


def test_weights_add_up_to_what_the_words_changed(model):
    for sentence in SAID:
        found = explain(model, sentence.format("wonderful", "wonderful"))
        ids = torch.from_numpy(model.encode([found.text])[0].astype(np.int64))[None]
        with torch.inference_mode():
            logits = model.classifier(ids, torch.zeros_like(ids))[0]
        odds = float(logits[1] - logits[0])
        assert sum(word.weight for word in found.words) == pytest.approx(odds - found.base, abs=0.05 * abs(odds))


def test_deleting_the_heaviest_words_changes_the_verdict_more_than_deleting_the_lightest(model, small_data):
    rows = [json.loads(line) for line in (small_data / "reviews" / "test.jsonl").read_text().splitlines()]
    heavy, light = [], []
    for row in rows[:10]:
        found = explain(model, row["text"])
        order = sorted(found.words, key=lambda word: -word.weight)

        def without(words, found=found):
            text = found.text
            for word in sorted(words, key=lambda w: -w.start):
                text = text[: word.start] + text[word.end :]
            return model.predict([text])[0].probabilities[found.verdict.label]

        heavy.append(found.verdict.score - without(order[:2]))
        light.append(found.verdict.score - without(sorted(found.words, key=lambda word: abs(word.weight))[:2]))
    assert np.mean(heavy) > 4 * abs(np.mean(light))


def test_words_stand_where_they_say_and_pieces_make_the_text(model):
    text = "A dreadful,\n  DREADFUL film<br />of the river—and 🎬 more."
    found = explain(model, text)
    assert found.text == text.replace("<br />", " ")
    assert [found.text[word.start : word.end] for word in found.words] == [word.text for word in found.words]
    assert "".join(piece for piece, _ in pieces(found)) == found.text
    assert "DREADFUL" in [word.text for word in found.words]


def test_a_long_text_is_explained_where_it_was_read(model):
    text = "The boat was old again. " * 40 + "A dreadful film."
    found = explain(model, text)
    assert found.words[-1].end == len(text)
    assert len(found.words) <= 62
    assert "".join(piece for piece, _ in pieces(found)) == text


def test_a_text_in_windows_is_explained_to_its_end(finished, tmp_path):
    folder = shutil.copytree(finished / "finetune/seed-0/model", tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "text_truncation": "windows"}))
    model = bertwright.load(folder)
    fill = "The boat was old again. " * 6
    parts = f"A dreadful film. {fill}".strip(), f"{fill}A dreadful film."  # as many tokens in each: the windows
    assert len(windows(model.encode([" ".join(parts)])[0], 64)) == 2
    whole, *alone = (explain(model, text) for text in (" ".join(parts), *parts))
    assert whole.words[-1].end == len(whole.text)
    # Of two classes the one's log-odds are the other's with the sign turned.
    turned = [1 if found.verdict.label == whole.verdict.label else -1 for found in alone]
    expected = [sign * word.weight / 2 for sign, found in zip(turned, alone, strict=True) for word in found.words]
    assert [word.weight for word in whole.words] == pytest.approx(expected, abs=1e-4)
    assert whole.base == pytest.approx(
        sum(s * found.base for s, found in zip(turned, alone, strict=True)) / 2, abs=1e-4
    )


def test_what_is_shown_marks_the_word_and_escapes_the_rest(model):
    found = explain(model, "<script>alert(1)</script> A dreadful film.")
    assert "+dreadful+" in as_terminal(found, colours=False)
    coloured = as_terminal(found, colours=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == found.text
    assert coloured != found.text
    page = as_html([found])
    assert "<script>" not in page
    assert re.search(r'<mark class="for"[^>]*>dreadful</mark>', page)


def test_the_command_explains_in_all_formats(finished, capsys):
    from bertwright.cli import main

    words = ["predict", "A dreadful film.", "--model", str(finished), "--explain", "true"]
    assert main(words) == 0
    assert "+dreadful+" in capsys.readouterr().out
    assert main([*words, "--format", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert max(row["words"], key=lambda word: word["weight"])["text"] == "dreadful"
    assert main([*words, "--format", "html"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
