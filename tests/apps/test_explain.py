"""Explanations: on sentences whose class is known, against the axiom of completeness, and against deletion."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import bertwright
from bertwright.apps.explain import as_html, as_terminal, explain, pieces, relative_attributions
from bertwright.inputs.sequences import windows
from bertwright.tasks.prediction import predict

SENTENCES = ("The river by the stone was new again. A {} film, {} from end to end.", "We saw a boat. A {} film.")


@pytest.fixture(scope="module")
def model(finished):
    return bertwright.load(finished)


def with_options(folder, target, **options):
    """A copy of a model folder with other options of its tokenizer."""
    shutil.copytree(folder, target)
    config = json.loads((target / "tokenizer_config.json").read_text())
    (target / "tokenizer_config.json").write_text(json.dumps({**config, **options}))
    return bertwright.load(target)


@pytest.mark.parametrize(("word", "number"), [("wonderful", 1), ("dreadful", 0)])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_word_that_decides_has_the_largest_attribution(model, sentence, word, number):
    found = explain(model, sentence.format(word, word))
    assert found.prediction.label == model.classifier.label_names[number]
    assert max(found.words, key=lambda w: w.attribution).text == word
    assert max(map(abs, relative_attributions(found))) == 1


def test_attributions_add_up_to_the_change_of_the_log_odds(model):
    for sentence in SENTENCES:
        found = explain(model, sentence.format("wonderful", "wonderful"))
        ids = torch.from_numpy(model.inputs(model.records([found.text]))[0].input_ids.astype(np.int64))[None]
        with torch.inference_mode():
            logits = model.classifier(ids, torch.zeros_like(ids))[0]
        odds = float(logits[1] - logits[0])
        total = sum(word.attribution for word in found.words)
        assert total == pytest.approx(odds - found.baseline_log_odds, abs=0.05 * abs(odds))


def test_deleting_words_of_large_attribution_changes_the_prediction_more_than_deleting_those_of_small(
    model, small_data
):
    rows = [json.loads(line) for line in (small_data / "reviews" / "test.jsonl").read_text().splitlines()]
    large, small = [], []
    for row in rows[:10]:
        found = explain(model, row["text"])
        order = sorted(found.words, key=lambda word: -word.attribution)

        def without(words, found=found):
            text = found.text
            for word in sorted(words, key=lambda w: -w.start):
                text = text[: word.start] + text[word.end :]
            return model.predict([text])[0].probabilities[found.prediction.label]

        large.append(found.prediction.score - without(order[:2]))
        small.append(found.prediction.score - without(sorted(found.words, key=lambda word: abs(word.attribution))[:2]))
    assert np.mean(large) > 4 * abs(np.mean(small))


@pytest.mark.parametrize("breaks", [True, False])
def test_offsets_are_those_of_the_words_and_pieces_make_the_text(finished, tmp_path, breaks):
    model = with_options(finished / "finetune/seed-0/model", tmp_path / "model", html_line_breaks=breaks)
    text = "A dreadful,\n  DREADFUL film<br />of the river—and 🎬 more [MASK]."
    found = explain(model, text)
    assert found.text == (text.replace("<br />", " ") if breaks else text)
    assert [found.text[word.start : word.end] for word in found.words] == [word.text for word in found.words]
    assert "".join(piece for piece, _ in pieces(found)) == found.text
    assert {"DREADFUL", "[", "MASK", "]"} <= {word.text for word in found.words}  # here its spelling is text


def test_a_long_text_is_explained_where_it_was_read(model):
    text = "The boat was old again. " * 40 + "A dreadful film."
    found = explain(model, text)
    assert found.words[-1].end == len(text)
    assert len(found.words) <= 62
    assert "".join(piece for piece, _ in pieces(found)) == text


def test_a_text_in_windows_is_explained_to_its_end(finished, tmp_path):
    model = with_options(finished / "finetune/seed-0/model", tmp_path / "model", text_truncation="windows")
    fill = "The boat was old again. " * 6
    parts = f"A dreadful film. {fill}".strip(), f"{fill}A dreadful film."  # as many tokens in each: the windows
    assert len(windows(model.inputs(model.records([" ".join(parts)]))[0], 64)) == 2
    whole, *alone = (explain(model, text) for text in (" ".join(parts), *parts))
    assert whole.words[-1].end == len(whole.text)
    # Of two classes the one's log-odds are the other's with the sign turned.
    turned = [1 if found.prediction.label == whole.prediction.label else -1 for found in alone]
    expected = [sign * word.attribution / 2 for sign, found in zip(turned, alone, strict=True) for word in found.words]
    assert [word.attribution for word in whole.words] == pytest.approx(expected, abs=1e-4)
    assert whole.baseline_log_odds == pytest.approx(
        sum(s * found.baseline_log_odds for s, found in zip(turned, alone, strict=True)) / 2, abs=1e-4
    )


def test_threads_predict_and_explain_at_the_same_time(model):
    texts = [f"{'A wonderful' if i % 3 else 'A dreadful'} film. {'The boat was old. ' * (i % 5)}" for i in range(60)]
    encoded = model.inputs(model.records(texts))

    def predict_one(i):  # with the very weights that explanations use
        return predict(model.task, model.classifier, [encoded[i]], 2048, 64)[0]

    def explain_one(i):
        return [word.attribution for word in explain(model, texts[i]).words]

    predicted, explained = [predict_one(i) for i in range(60)], [explain_one(i) for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        answers = [(pool.submit(predict_one, i), pool.submit(explain_one, i)) for i in range(60)]
        for i, (prediction, attributions) in enumerate(answers):
            assert prediction.result() == pytest.approx(predicted[i], abs=1e-5)
            assert attributions.result() == pytest.approx(explained[i], abs=1e-4)


def test_the_output_marks_the_word_and_escapes_the_rest(model):
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

    words = ["predict", "A dreadful film.", "--model", str(finished), "--explain"]
    assert main(words) == 0
    assert "+dreadful+" in capsys.readouterr().out
    assert main([*words, "--format", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert max(row["words"], key=lambda word: word["attribution"])["text"] == "dreadful"
    assert main([*words, "--format", "html"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
