"""Explanations: on sentences whose class is known, against the axiom of completeness, and against deletion."""

import itertools
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import bertwright
from bertwright.apps.explain import (
    as_html,
    as_json,
    as_terminal,
    explain,
    pieces,
    pieces_pair,
    relative_attributions,
)
from bertwright.apps.server import make_app
from bertwright.errors import UserError
from bertwright.inputs.sequences import build, windows
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.heads import SequenceHead, TaskModel
from bertwright.models.sequence_heads import MultiLabelHead, RegressionHead
from bertwright.tasks.prediction import predict
from serving import Server
from small_models import SHAPE, shaken

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
        assert total == pytest.approx(odds - found.baseline, abs=0.05 * abs(odds))


def test_deleting_words_of_large_attribution_changes_the_prediction_more_than_deleting_those_of_small(sample):
    """Of the bundled model, which has learned enough for it: one of a few steps depends on the draw of its dropout."""
    model = bertwright.load("bundled")
    rows = [json.loads(line) for line in (sample / "reviews" / "test.jsonl").read_text().splitlines()]
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
    assert sum(a > b for a, b in zip(large, small, strict=True)) >= 9
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
    assert whole.baseline == pytest.approx(
        sum(s * found.baseline for s, found in zip(turned, alone, strict=True)) / 2, abs=1e-4
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


FIRST, SECOND = "the cat sat on a mat", "rain was falling, Falling on roofs"
NAMES = {"classification": ["a", "b", "c"], "multi-label": ["a", "b", "c"], "regression": ["closeness"]}


@pytest.fixture(scope="module")
def folders(small_tokenizer, tmp_path_factory):
    """By task, models that are nearly linear in their token embeddings, which are small beside those of positions.

    Of such a model, integrated gradients are what occlusion, token by token, finds.
    """
    torch.manual_seed(3)
    found = {}
    for kind, head in (
        ("classification", SequenceHead(48, 3, 0.0)),
        ("multi-label", MultiLabelHead(48, 3, 0.0, log_odds=[0.1, -1.0, 0.5])),
        ("regression", RegressionHead(48, 0.0, mean=3.0, deviation=2.0)),
    ):
        model = shaken(TaskModel(new_encoder(SHAPE, small_tokenizer.vocab_size), head, NAMES[kind], kind), 0.1)
        with torch.no_grad():
            model.encoder.token_embeddings.weight.mul_(0.02)
        model.notes = {"text_pair": None}  # it takes texts and pairs
        found[kind] = tmp_path_factory.mktemp("explained") / kind
        save_model(model, small_tokenizer, found[kind], max_length=64)
    return found


def occlusion(model, pair, quantity):
    """By text, how much the quantity falls where each word, and no other, is masked; and it, where all words are."""
    tokenizer = model.classifier_tokenizer
    sequence = build(tokenizer, *pair, max_length=64)
    own = ~sequence.special_tokens_mask
    words = sorted({*zip(sequence.token_type_ids[own].tolist(), sequence.word_ids[own].tolist(), strict=True)})

    def with_masks(masked):
        ids = np.where(masked & own, tokenizer.mask_id, sequence.input_ids)
        inputs = [torch.tensor(values, dtype=torch.long)[None] for values in (ids, sequence.token_type_ids)]
        with torch.no_grad():
            return quantity(model.classifier(*inputs)[0].double())

    whole = with_masks(np.zeros(len(own), bool))
    falls = [[], []]
    for segment, word in words:
        hidden = (sequence.token_type_ids == segment) & (sequence.word_ids == word)
        falls[segment].append(whole - with_masks(hidden))
    return falls, whole, with_masks(np.ones(len(own), bool))


QUANTITIES = {
    "classification": lambda row, i: float(row[i] - torch.cat([row[:i], row[i + 1 :]]).logsumexp(0)),
    "multi-label": lambda row, i: float(row[i]),
    "regression": lambda row, i: float(row[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(FIRST,), (FIRST, SECOND)], ids=["text", "pair"])
@pytest.mark.parametrize("kind", NAMES)
def test_attributions_of_each_label_and_of_numbers_are_those_of_occlusion(folders, kind, pair):
    model = bertwright.load(folders[kind])
    for number, name in enumerate(NAMES[kind]):
        found = explain(model, pair, name)
        falls, whole, masked = occlusion(model, pair, lambda row, i=number: QUANTITIES[kind](row, i))
        attributions = [[word.attribution for word in words] for words in (found.words, found.words_pair)]
        scale = max(map(abs, itertools.chain(*falls)))
        for ours, expected in zip(attributions, falls, strict=True):
            assert ours == pytest.approx(expected, abs=0.05 * scale)
        assert found.baseline == pytest.approx(masked, abs=1e-5)
        assert found.baseline + sum(itertools.chain(*attributions)) == pytest.approx(whole, abs=1e-3 * scale)
        assert found.label == name
    assert [word.text for word in found.words] == FIRST.split()
    if len(pair) == 2:
        assert [found.text_pair[w.start : w.end] for w in found.words_pair] == [w.text for w in found.words_pair]
        assert [w.text for w in found.words_pair] == "rain was falling , Falling on roofs".split()
    # Without a label, it is that of the most probable.
    usual = explain(model, pair)
    if kind != "regression":
        probabilities = model.predict([pair])[0].probabilities
        assert usual.label == max(probabilities, key=probabilities.get)
        assert usual.score == pytest.approx(probabilities[usual.label], abs=0.01)
    else:
        assert usual == found


def test_a_pair_is_explained_where_it_was_read(folders):
    model = bertwright.load(folders["classification"])
    found = explain(model, ("the cat sat. " * 40, "rain was falling. " * 40))
    assert len(found.words) + len(found.words_pair) <= 61
    texts = zip((found.text, found.text_pair), (pieces(found), pieces_pair(found)), strict=True)
    assert all("".join(piece for piece, _ in cut) == text for text, cut in texts)
    assert max(map(abs, relative_attributions(found))) == 1


def test_what_has_no_such_label_is_refused(folders):
    with pytest.raises(UserError, match="no label 'd' to explain; it has: a, b, c"):
        explain(bertwright.load(folders["multi-label"]), FIRST, "d")


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.slow
def test_the_command_explains_pairs_labels_and_numbers(folders, tmp_path, capsys, kind):
    from bertwright.cli import main

    model, name = bertwright.load(folders[kind]), NAMES[kind][-1]
    found = explain(model, (FIRST, SECOND), name)
    words = ["predict", FIRST, "--text-pair", SECOND, "--model", str(folders[kind]), "--explain", "--label", name]
    assert main(words) == 0
    heading, *texts = capsys.readouterr().out.splitlines()
    assert heading == (f"{name}, {found.score:.4g}" if kind == "regression" else f"{name}, {found.score:.3f}")
    assert [re.sub(r"[+-]", "", text).strip() for text in texts] == [FIRST, SECOND]
    assert main([*words, "--format", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == json.loads(json.dumps(as_json(found)))
    assert {"text_pair", "words_pair", "explained_label"} <= row.keys()
    assert ("baseline_score" in row, "baseline_log_odds" in row) == (kind == "regression", kind != "regression")
    assert main([*words, "--format", "html"]) == 0
    assert capsys.readouterr().out.count("<article>") == 2
    file = tmp_path / "pairs.csv"
    file.write_text(f'text,text_pair\n{FIRST},"{SECOND}"\n{FIRST},\n')
    assert main([*words[:1], "--file", str(file), *words[4:], "--format", "jsonl"]) == 0
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    assert json.loads(line)["words_pair"] == row["words_pair"]
    assert "1 of 2 rows have no answer" in said.err
    assert main(words[:-3]) == 0
    assert main([*words[:-3], "--label", name]) == 2
    assert "add --explain" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_the_server_explains_pairs_labels_and_numbers(folders, kind):
    model, name = bertwright.load(folders[kind]), NAMES[kind][-1]
    with Server(make_app(model)) as client:
        rows = [{"text": FIRST, "text_pair": SECOND}, {"text": SECOND}]
        found = client.post("/explain", json={"rows": rows, "label": name}).json()
        for answer, given in zip(found, ((FIRST, SECOND), SECOND), strict=True):
            expected = as_json(explain(model, given, name))
            assert answer.keys() == expected.keys()
            ours = [word["attribution"] for word in answer["words"]]
            assert ours == pytest.approx([word["attribution"] for word in expected["words"]], abs=1e-4)
        assert [word["text"] for word in found[0]["words_pair"]] == [
            w.text for w in explain(model, (FIRST, SECOND)).words_pair
        ]
        refused = client.post("/explain", json={"texts": [FIRST], "label": "d"})
        assert (refused.status_code, "no label 'd'" in refused.json()["detail"]) == (422, True)
