"""Pairs, numbers and lists of labels through the command line, files, the server, exports and model cards."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

import bertwright
from bertwright.apps.export import ONNX_FILE, export
from bertwright.apps.server import make_app
from bertwright.cli import main
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.heads import SequenceHead, TaskModel
from bertwright.models.sequence_heads import MultiLabelHead, RegressionHead
from bertwright.tasks.registry import load_task_model
from serving import Server
from small_models import SHAPE, relative, shaken

FIRST, SECOND = "the cat sat on a mat", "rain was falling"
PAIR = {"text": FIRST, "text_pair": SECOND}
KINDS = ("classification", "regression", "multi-label")


@pytest.fixture(scope="module")
def folders(small_tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    found = {}
    for kind, head, names, notes in (
        ("classification", SequenceHead(48, 3, 0.1), ["a", "b", "c"], {}),
        ("regression", RegressionHead(48, 0.1, mean=3.0), ["closeness"], {}),
        ("multi-label", MultiLabelHead(48, 3, 0.1), ["a", "b", "c"], {"label_thresholds": [0.0, 0.0, 1.0]}),
    ):
        model = shaken(TaskModel(new_encoder(SHAPE, small_tokenizer.vocab_size), head, names, kind), 0.2)
        model.notes = {"text_pair": True, **notes}
        found[kind] = tmp_path_factory.mktemp("models") / kind
        save_model(model, small_tokenizer, found[kind], max_length=64)
    return found


def line_of(kind, answer):
    if kind == "regression":
        return f"{answer.score:>12.4g}  "
    if kind == "multi-label":
        listed = ", ".join(f"{name} {answer.probabilities[name]:.3f}" for name in answer.labels)
        return f"{listed:<24}  "
    return f"{answer.label:<12} {answer.score:.3f}  "


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_predicted_on_the_command_line(folders, capsys, kind):
    folder = folders[kind]
    answer = bertwright.load(folder).predict(PAIR)
    given = ["predict", FIRST, "--text-pair", SECOND, "--model", str(folder)]
    assert main(given) == 0
    assert capsys.readouterr().out == f"{line_of(kind, answer)}{FIRST} {SECOND}\n"
    assert main([*given, "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out) == {**PAIR, **vars(answer)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([FIRST], "text 1 is one text, and the model reads pairs"),
        ([FIRST, FIRST, "--text-pair", SECOND], "--text-pair is the second text of one, and 2 are given"),
        ([FIRST, "--text-pair", SECOND, "--file", "b.csv"], "leave out other texts"),
        ([FIRST, "--explain"], "text 1 of 1 is one text, and the model reads pairs"),
        (["--text-pair-column", "b", FIRST], "is that of a --file"),
    ],
)
def test_what_is_no_pair_is_refused_on_the_command_line(folders, capsys, words, said):
    assert main(["predict", *words, "--model", str(folders["classification"])]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_the_pairs_of_a_file_are_predicted_and_half_a_pair_costs_itself(folders, tmp_path, capsys, kind):
    file, out = tmp_path / "pairs.csv", tmp_path / "out.jsonl"
    file.write_text(f"id,a,b\n1,{FIRST},{SECOND}\n2,{FIRST},\n3,{SECOND},{FIRST}\n")
    columns = ["--text-column", "a", "--text-pair-column", "b"]
    given = ["predict", "--model", str(folders[kind]), "--file", str(file), "--out", str(out)]
    assert main([*given, *columns]) == 0
    assert "1 of 3 rows have no answer; the first: " in capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    model = bertwright.load(folders[kind])
    names = {"classification": "label", "regression": "closeness", "multi-label": "labels"}
    assert rows[1][names[kind]] is None
    for row, pair in ((rows[0], (FIRST, SECOND)), (rows[2], (SECOND, FIRST))):
        (answer,) = model.predict([pair])
        if kind == "regression":
            assert row["closeness"] == pytest.approx(answer.score, abs=0.05)
        else:
            expected = {f"probability_{name}": value for name, value in answer.probabilities.items()}
            assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0.01)
    if kind == "multi-label":
        assert sorted(rows[0]["labels"]) == ["a", "b"]
    assert main(given) == 2
    assert "has no column `text`; it has: id, a, b; set --text-column" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_server_and_its_page_take_pairs(folders, kind):
    model = bertwright.load(folders[kind])
    with Server(make_app(model)) as client:
        assert '"form": "pairs"' in client.get("/").text
        (found,) = client.post("/predict", json={"rows": [PAIR]}).json()
        expected = vars(model.predict(PAIR))
        assert found.keys() == expected.keys()
        refused = client.post("/predict", json={"texts": [FIRST]})
        assert (refused.status_code, "reads pairs" in refused.json()["detail"]) == (422, True)
        assert client.post("/explain", json={"texts": [FIRST]}).status_code == 422


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_our_logits_of_pairs(folders, tmp_path, kind):
    out = export(folders[kind], tmp_path / "out", onnx=True, int8=False)
    session = onnxruntime.InferenceSession(out / ONNX_FILE)
    model = load_task_model(folders[kind]).eval()
    for batch in (1, 7):
        for length in (5, 33, 64):
            ids = torch.randint(5, 60, (batch, length), generator=torch.Generator().manual_seed(length))
            mask = torch.arange(length) < torch.arange(length - batch + 1, length + 1)[:, None].clamp_min(3)
            segments = (torch.arange(length) > length // 2).long().expand(batch, length)
            (found,) = session.run(
                None,
                {
                    "input_ids": ids.numpy(),
                    "attention_mask": mask.long().numpy(),
                    "token_type_ids": np.ascontiguousarray(segments.numpy()),
                },
            )
            with torch.no_grad():
                expected = model(ids, segments, mask)
            assert found.shape == expected.shape
            assert relative(torch.from_numpy(found), expected) < 1e-4


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("classification", "A BERT classifier of pairs of texts with the classes a, b, c."),
        ("regression", "predicts a number (closeness) for a pair of texts"),
        ("multi-label", "a pair of texts any number of the labels a, b, c."),
    ],
)
def test_cards_say_what_the_model_gives_and_their_code_runs(folders, tmp_path, kind, words):
    out = export(folders[kind], tmp_path / "out", onnx=False, int8=False)
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert words in card
    assert ("label_thresholds" in card) == (kind == "multi-label")
    code = card.partition("```python\n")[2].partition("```")[0].replace("PATH", str(out))
    exec(code, {})
