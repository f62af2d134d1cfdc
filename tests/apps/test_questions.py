"""Questions and choices through the command line, files, the server, exports and model cards."""

import json

import numpy as np
import pytest
import torch

import bertwright
from bertwright.apps.answers import predict
from bertwright.apps.batching import Limits
from bertwright.apps.export import ONNX_FILE, export
from bertwright.apps.requests import PredictRequest
from bertwright.apps.server import make_app
from bertwright.cli import main
from bertwright.errors import UserError
from bertwright.models.answer_heads import ChoiceHead, SpanHead
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.heads import TaskModel
from bertwright.tasks.registry import load_task_model
from serving import Server
from small_models import SHAPE, shaken

CONTEXT = "The cat <sat> on a mat while rain was falling over 🐟 old roofs."
QUESTION = {"question": "what was falling?", "context": CONTEXT}
CHOICES = {"context": "the cat sat on", "choices": ["a mat", "old roofs", "rain"]}


@pytest.fixture(scope="module")
def folders(small_tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    found = {}
    for task, head, names in (
        ("question-answering", SpanHead(48), ["start", "end"]),
        ("multiple-choice", ChoiceHead(48, 0.1), ["0", "1", "2"]),
    ):
        model = shaken(TaskModel(new_encoder(SHAPE, small_tokenizer.vocab_size), head, names, task), 0.2)
        found[task] = tmp_path_factory.mktemp("models") / task
        save_model(model, small_tokenizer, found[task], max_length=64)
    return found


def test_a_question_is_answered_on_the_command_line(folders, capsys):
    folder = folders["question-answering"]
    expected = bertwright.load(folder).predict(QUESTION)
    given = ["--model", str(folder), "--question", QUESTION["question"], "--context", CONTEXT]
    assert main(["predict", *given]) == 0
    line = capsys.readouterr().out
    assert line == f"{expected.score:.3f}  {expected.text}  ({expected.start}-{expected.end})\n"
    assert main(["predict", *given, "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out) == {**QUESTION, **vars(expected)}


def test_choices_are_chosen_from_on_the_command_line(folders, capsys):
    folder = folders["multiple-choice"]
    expected = bertwright.load(folder).predict(CHOICES)
    given = ["--model", str(folder), "--context", CHOICES["context"], "--choices", json.dumps(CHOICES["choices"])]
    assert main(["predict", *given]) == 0
    assert capsys.readouterr().out == f"{expected.index}  {expected.score:.3f}  {expected.text}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["A text."], "this model answers questions: give {"),
        (["A text.", "--question", "a", "--context", "b"], "leave out other texts"),
        (["--question", "a"], "text 1 has question; this model answers questions"),
    ],
)
def test_what_is_no_question_is_refused_on_the_command_line(folders, capsys, words, said):
    assert main(["predict", *words, "--model", str(folders["question-answering"])]) == 2
    assert said in capsys.readouterr().err


def test_the_questions_of_a_file_are_answered_and_a_bad_row_costs_itself(folders, tmp_path, capsys):
    folder, file, out = folders["question-answering"], tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": 7, **QUESTION}, {"id": 8, "question": None, "context": CONTEXT}, {"id": 9, **QUESTION}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert main(["predict", "--model", str(folder), "--file", str(file), "--out", str(out)]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    expected = bertwright.load(folder).predict(QUESTION)
    for row in (found[0], found[2]):
        assert CONTEXT[row["start"] : row["end"]] == row["answer"] == expected.text
        assert row["score"] == pytest.approx(expected.score, abs=0.01)
    assert found[1]["answer"] is None
    assert "1 of 3 rows have no answer; the first: " in capsys.readouterr().err


def test_the_choices_of_a_csv_file_are_chosen_from(folders, tmp_path):
    folder, file, out = folders["multiple-choice"], tmp_path / "choices.csv", tmp_path / "out.csv"
    quoted = json.dumps(CHOICES["choices"]).replace('"', '""')
    file.write_text(f'context,choices\n{CHOICES["context"]},"{quoted}"\n')
    assert main(["predict", "--model", str(folder), "--file", str(file), "--out", str(out)]) == 0
    header, row = out.read_text().splitlines()
    assert header == "context,choices,choice,index,score,probabilities"
    assert row.rpartition(f",{bertwright.load(folder).predict(CHOICES).text},")[2]


def test_choices_as_the_hub_has_them_are_chosen_from(folders, tmp_path, capsys):
    """CommonsenseQA and ARC: training reads this form, too."""
    folder, file = folders["multiple-choice"], tmp_path / "choices.jsonl"
    rows = [CHOICES, CHOICES | {"choices": {"text": CHOICES["choices"], "label": ["A", "B", "C"]}}]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert main(["predict", "--model", str(folder), "--file", str(file), "--format", "jsonl"]) == 0
    plain, of_the_hub = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert plain["probabilities"] == of_the_hub["probabilities"]


@pytest.mark.slow
def test_the_server_reads_choices_as_the_hub_has_them(folders):
    rows = [CHOICES, CHOICES | {"choices": {"text": CHOICES["choices"], "label": ["A", "B", "C"]}}]
    with Server(make_app(bertwright.load(folders["multiple-choice"]))) as client:
        answers = client.post("/predict", json={"rows": rows}).json()
        assert answers[0]["probabilities"] == pytest.approx(answers[1]["probabilities"], abs=1e-4)
        refused = client.post("/predict", json={"rows": [CHOICES | {"choices": [5]}]}).json()
        assert refused["detail"] == '"rows[0]" has in "choices" neither a text nor a list of texts; give one of these'


HALVES = [
    ("question-answering", {"question": "what \ud83d was falling?", "context": "\ud83d rain \ud83d"}),
    ("multiple-choice", {"context": "the cat \ud83d sat on", "choices": ["a mat \ud83d", "rain \ud83d"]}),
]
"""Rows with half an emoji in each text, and the task that reads them."""


@pytest.mark.parametrize(("task", "given"), HALVES)
def test_half_an_emoji_in_a_row_is_a_question_mark(folders, tmp_path, capsys, task, given):
    whole = json.loads(json.dumps(given).replace("\\ud83d", "?"))
    model = bertwright.load(folders[task])
    assert model.predict(given) == model.predict(whole)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(given) + "\n")
    assert main(["predict", "--model", str(folders[task]), "--file", str(file), "--format", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert {name: row[name] for name in whole} == whole


@pytest.mark.parametrize(("task", "given"), HALVES)
@pytest.mark.slow
def test_the_server_reads_half_an_emoji_in_rows_and_in_their_names(folders, task, given):
    typed = {"Content-Type": "application/json"}
    with Server(make_app(bertwright.load(folders[task]))) as client:
        answer = client.post("/predict", content=json.dumps({"rows": [given]}), headers=typed)
        assert answer.status_code == 200
        answer = client.post("/predict", content=json.dumps({"rows": [{"\ud83d": "a"}]}), headers=typed)
        assert answer.status_code == 422
        assert "text 1 has ?; this model" in answer.json()["detail"]


@pytest.mark.slow
def test_too_many_choices_are_refused_before_they_are_tokenized(folders, monkeypatch):
    model = bertwright.load(folders["multiple-choice"])

    def fail(*_):
        raise AssertionError("texts were tokenized")

    with Server(make_app(model)) as client:
        monkeypatch.setattr(model, "inputs", fail)
        many = {"context": "a " * 24_000, "choices": ["b"] * 9_000}
        for rows, choices in (([many], "9,000"), ([CHOICES] * 22, "66")):
            answer = client.post("/predict", json={"rows": rows})
            assert answer.status_code == 422
            expected = f"the request has {choices} choices, and may have at most 64; send fewer, or several requests"
            assert answer.json()["detail"] == expected


def test_a_context_is_tokenized_once_for_all_of_its_choices(folders, monkeypatch):
    model = bertwright.load(folders["multiple-choice"])
    expected = model.predict(CHOICES).text
    tokenizer = model.classifier_tokenizer
    encode, seen = tokenizer.encode, []
    monkeypatch.setattr(tokenizer, "encode", lambda texts: seen.extend(texts) or encode(texts))
    assert [one.text for one in model.predict([CHOICES, CHOICES])] == [expected] * 2
    assert sorted(seen) == sorted([CHOICES["context"], *CHOICES["choices"]])


@pytest.mark.parametrize(("task", "given"), [("question-answering", QUESTION), ("multiple-choice", CHOICES)])
@pytest.mark.slow
def test_the_server_answers_rows_as_the_model_does(folders, task, given):
    model = bertwright.load(folders[task])
    with Server(make_app(model)) as client:
        assert client.get("/health").json()["task"] == task
        assert f'"form": "{task}"' in client.get("/").text
        answer = client.post("/predict", json={"rows": [given, given]})
        assert answer.status_code == 200
        expected = model.predict(given)
        for found in answer.json():
            assert (found["text"], set(found)) == (expected.text, set(vars(expected)))
        for wrong, words in (
            ({"texts": ["A text."]}, "this model"),
            ({"rows": [given], "texts": ["A text."]}, "and not both"),
            ({}, '"texts" is missing, or "rows"'),
            ({"rows": []}, '"rows" is empty'),
            ({"rows": ["a"]}, "is not an object; give the columns by name"),
            ({"rows": [{"question": "a"}]}, "text 1 has question; this model"),
        ):
            answer = client.post("/predict", json=wrong)
            assert answer.status_code == 422
            assert words in answer.json()["detail"]
        # What a refusal says to send is answered, and is the example of the description.
        described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        for wrong in ({"texts": ["A text."]}, given, {}, {"rows": given}, {"rows": [{"question": "a"}]}):
            sent = json.loads(client.post("/predict", json=wrong).json()["detail"].rpartition("send JSON such as ")[2])
            assert sent == described["application/json"]["example"]
            assert client.post("/predict", json=sent).status_code == 200
        for answer in (client.get("/explain"), *(client.post("/explain", json=one) for one in ({}, {"rows": [given]}))):
            assert answer.status_code == 422
            assert "; words are explained of classes, labels and numbers" in answer.json()["detail"]
            assert "such as" not in answer.json()["detail"]
        assert "/explain" not in client.get("/openapi.json").json()["paths"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*questions are longer")  # what the server's operator reads
def test_the_server_refuses_a_question_that_it_would_cut(folders):
    with Server(make_app(bertwright.load(folders["question-answering"]))) as client:
        rows = [QUESTION, {"question": "the " * 40, "context": CONTEXT}]
        answer = client.post("/predict", json={"rows": rows})
        assert answer.status_code == 422
        expected = "text 2 of 2 has a question with 50 tokens more than the model reads; shorten it"
        assert answer.json()["detail"] == expected
        assert client.post("/predict", json={"rows": [{"question": "the " * 15, "context": CONTEXT}]}).is_success


def test_tokens_that_several_windows_read_are_counted_in_each(folders):
    model = bertwright.load(folders["question-answering"])
    row = {"question": "the " * 15, "context": "the cat " * 1_000}
    request = PredictRequest(rows=[row])
    (encoded,) = model.inputs(model.records([row]))
    assert len(encoded) < Limits().text_tokens
    tokens = sum(map(len, model.windows(encoded)))
    assert tokens > 2 * len(encoded)
    assert predict(model, request, Limits(request_tokens=tokens)).tokens == tokens
    with pytest.raises(UserError, match=f"the request has {tokens:,} tokens in windows.* at most {tokens - 1:,}"):
        predict(model, request, Limits(request_tokens=tokens - 1))


@pytest.fixture(scope="module")
def exported(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    return {task: export(folder, out / task, onnx=True, int8=False) for task, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("length", [5, 33, 64])
def test_onnx_runtime_gives_our_logits_of_questions_and_choices(exported, folders, small_tokenizer, batch, length):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(length)
    for task, shape in (("question-answering", (batch, length)), ("multiple-choice", (batch, 4, length))):
        ids = torch.from_numpy(rng.integers(5, small_tokenizer.vocab_size, shape))
        mask = torch.ones_like(ids)
        mask[-1, ..., max(1, length // 2) :] = 0
        types = (torch.arange(length) > length // 2).long().expand(shape)
        session = onnxruntime.InferenceSession(exported[task] / ONNX_FILE)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        theirs = session.run(None, {name: value.numpy() for name, value in given.items()})
        flat = [one.reshape(-1, length) for one in (ids, types, mask)]
        with torch.inference_mode():
            ours = load_task_model(folders[task]).eval()(*flat)
        if task == "multiple-choice":
            assert theirs[0] == pytest.approx(ours.view(batch, 4).numpy(), abs=1e-4)
            continue
        assert [one.name for one in session.get_outputs()] == ["start_logits", "end_logits"]
        seen = mask.bool()
        for found, expected in zip(theirs, ours.unbind(-1), strict=True):
            assert found[seen.numpy()] == pytest.approx(expected[seen].numpy(), abs=1e-4)


@pytest.mark.parametrize("task", ["question-answering", "multiple-choice"])
def test_a_card_names_the_pipeline_and_shows_code_that_works(folders, task, tmp_path):
    folder = export(folders[task], tmp_path / "out", onnx=False, int8=False)
    card = (folder / "README.md").read_text()
    assert f"pipeline_tag: {task}" in card
    code = card.partition("```python\n")[2].partition("```")[0].replace("PATH", str(folder))
    exec(compile(code, "card", "exec"), {})
