"""Multiple choice: probabilities against `transformers`, resamples, the baseline, and a run from files to choices."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForMultipleChoice

import bertwright
from bertwright.errors import UserError, WrongTypeError
from bertwright.models.answer_heads import ChoiceHead
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.heads import TaskModel
from bertwright.recipe import FinetuneConfig
from bertwright.tasks.multiple_choice import Choice, MultipleChoice
from bertwright.tasks.prediction import window_logits
from bertwright.tasks.resampling import Units, resample_rows
from bertwright.text.records import Record
from small_models import SHAPE, shaken

TASK = MultipleChoice()
GIVEN = {"context": "the cat sat on a mat", "choices": ["rain was falling", "nobody came", "roofs"]}


@pytest.fixture(scope="module")
def folder(small_tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    encoder = new_encoder(SHAPE, small_tokenizer.vocab_size)
    model = shaken(TaskModel(encoder, ChoiceHead(48, 0.1), ["0", "1", "2"], "multiple-choice"), 0.2)
    folder = tmp_path_factory.mktemp("choices") / "model"
    save_model(model, small_tokenizer, folder, max_length=64)
    return folder


@pytest.mark.parametrize("from_transformers", [False, True])
def test_probabilities_are_those_of_transformers(folder, from_transformers, tmp_path):
    theirs, tokenizer = BertForMultipleChoice.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    if from_transformers:
        folder = tmp_path
        theirs.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    model = bertwright.load(folder)
    records = model.records(GIVEN)
    parts = [model.windows(one) for one in model.inputs(records)]
    found = TASK.predictions(window_logits(model.classifier, parts[0], 2_048), parts)  # in float32
    inputs = tokenizer([GIVEN["context"]] * 3, GIVEN["choices"], return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = theirs(**{name: value[None] for name, value in inputs.items()}).logits.softmax(-1)
    assert found == pytest.approx(expected.numpy(), rel=1e-4)
    answer = model.predict(GIVEN)
    assert isinstance(answer, Choice)
    assert (answer.text, answer.index) == (GIVEN["choices"][answer.index], int(np.argmax(answer.probabilities)))
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-3)


def test_a_trained_model_chooses_among_any_number(folder):
    few, many = bertwright.load(folder).predict(
        [{**GIVEN, "choices": GIVEN["choices"][:2]}, {**GIVEN, "choices": GIVEN["choices"] * 2}]
    )
    assert (len(few.probabilities), len(many.probabilities)) == (2, 6)
    assert sum(few.probabilities) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("A text.", "text 1 is str; this model chooses: give"),
        ({"context": "a"}, "text 1 has context; this model chooses"),
        ({"context": "a", "choices": ["b"]}, "text 1 has 1 choice, and at least two are needed"),
        ({"context": "a", "choices": ["b", 2]}, "text 1 has choices that are no list of texts"),
        ({"context": 1, "choices": ["b", "c"]}, "text 1 has int as context"),
    ],
)
def test_what_is_no_choice_is_refused(folder, given, words):
    with pytest.raises(WrongTypeError, match=words):
        bertwright.load(folder).predict(given)


def test_a_choice_without_a_word_is_refused(folder):
    with pytest.raises(UserError, match="the text has nothing to read"):
        bertwright.load(folder).predict({"context": "a cat", "choices": ["mat", " \u200d"]})


def test_windows_are_for_single_texts():
    with pytest.raises(UserError, match=r"finetune\.truncation is windows, which is for single texts"):
        TASK.check(FinetuneConfig(data="x", truncation="windows"))


def test_resampled_accuracy_is_that_of_the_resamples():
    rng = np.random.default_rng(0)
    predictions, labels = rng.dirichlet(np.ones(4), 40).astype(np.float32), rng.integers(0, 4, 40)
    found = TASK.resampled(predictions, labels, Units(40), 60, 1)
    expected = resample_rows(TASK.metrics, predictions, labels, Units(40), 60, 1)
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert TASK.loss(predictions, labels) == pytest.approx(-np.log(predictions[np.arange(40), labels]).mean(), rel=1e-5)


def test_the_baseline_takes_what_shares_rare_words_with_the_context():
    records = [
        Record("0", "The boat sank near Vienna.", choices=("the train", "the boat near Vienna"), label="1"),
        Record("1", "The candle burnt.", choices=("the candle", "a letter"), label="0"),
        Record("2", "Nothing is shared.", choices=("xyz", "abc"), label="0"),
    ]
    labels = TASK.labels(records, ["0", "1"], records, "data")
    found = TASK.baselines(records, labels, records, lambda said: None)
    assert found["ngram_overlap"].argmax(axis=1).tolist() == [1, 0, 0]
    assert found["ngram_overlap"].sum(axis=1) == pytest.approx(np.ones(3))
    assert found["most_frequent"][0] == pytest.approx([2 / 3, 1 / 3])


def test_the_baseline_reads_words_of_other_scripts():
    # Chinese has no spaces; in Hindi Python's word characters leave out vowel signs.
    chinese = Record("0", "小明在图书馆里看书。", choices=("他在跑步", "小明在图书馆"), label="1")
    hindi = Record("1", "किताब मेज़ पर है", choices=("कुत्ता बाहर", "किताब मेज़"), label="1")
    for record in (chinese, hindi):
        labels = TASK.labels([record], ["0", "1"], [record], "data")
        (shares,) = TASK.baselines([record], labels, [record], lambda said: None)["ngram_overlap"]
        assert shares[1] > 2 * shares[0]


@pytest.mark.slow
def test_choices_are_trained_evaluated_reported_and_answered(run_bundled, tmp_path):
    data = tmp_path / "choices"
    data.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 60)):
        rows = []
        for number in range(count):
            right = int(rng.integers(3))
            choices = [f"a dreadful film, number {number + i}" for i in range(3)]
            choices[right] = f"a wonderful film, number {number}"
            rows.append(json.dumps({"context": "Which film was the best?", "choices": choices, "label": right}))
        (data / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    run = run_bundled("multiple-choice", data, epochs=3, max_length=32)
    scores = run.results["scores"]
    assert set(scores) == {"bert", "most_frequent", "ngram_overlap"}
    assert scores["bert"]["accuracy"] > 0.9
    assert scores["most_frequent"]["accuracy"] < 0.6
    found = bertwright.load(run.path).predict(
        {"context": "Which film was the best?", "choices": ["a dreadful film", "a dreadful one", "a wonderful film"]}
    )
    assert (found.text, found.index) == ("a wonderful film", 2)
    assert "N-gram overlap with the context" in (run.path / "report.html").read_text()
