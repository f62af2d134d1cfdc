"""bertwright init on questions and choices: each form is seen, and its recipe loads and reads them."""

import json

import pytest

from bertwright.cli import main
from bertwright.recipe_file import load_recipe
from bertwright.tasks.registry import TASKS
from bertwright.text.records import read_records

CONTEXT = "The weather in London was good when the old boat came in from the sea in May"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def rows_of(form):
    for number in range(30):
        context = f"{CONTEXT} {number}."
        answers = [{"text": "London", "start": 15}] if number % 2 else []
        if form == "questions":
            yield {"id": number, "question": "Where was it good?", "context": context, "answers": answers}
        elif form == "hub":
            found = {"text": ["London"], "answer_start": [15]}
            yield {"title": "a", "question": "Where was it good?", "passage": context, "answers": found}
        elif form == "choices":
            yield {"context": context, "choices": ["It was warm.", "It was not."], "label": number % 2}
        else:
            found = {"label": ["A", "B"], "text": ["a bank", "a lake"]}
            yield {"question": f"Where is money kept in {number}?", "choices": found, "answerKey": "AB"[number % 2]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "task", "column"),
    [
        ("questions", "question-answering", "context"),
        ("hub", "question-answering", "passage"),
        ("choices", "multiple-choice", "context"),
        ("keys", "multiple-choice", "question"),
    ],
)
def test_init_sees_each_form_and_its_recipe_reads_it(folder, capsys, form, task, column):
    for split in ("train", "test"):
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows_of(form))))
    assert main(["init", "data"]) == 0
    assert task in capsys.readouterr().out
    recipe = load_recipe(str(folder / "recipes" / "data.yaml"))
    assert recipe.finetune.task == task
    TASKS[task].check(recipe.finetune)
    source = recipe.source(recipe.finetune.data)
    assert source.context_column == column
    assert len(read_records(source, "test", TASKS[task].columns)) == 30


@pytest.mark.slow
def test_init_sees_squad_s_own_json(folder, capsys):
    asked = [
        {"id": str(n), "question": f"Where {n}?", "answers": [{"text": "London", "answer_start": 15}]} for n in range(9)
    ]
    paragraphs = [{"context": f"{CONTEXT} {number}.", "qas": asked} for number in range(6)]
    (folder / "squad.json").write_text(
        json.dumps({"version": "1.1", "data": [{"title": "a", "paragraphs": paragraphs}]})
    )
    assert main(["init", "squad.json"]) == 0
    assert "answerable" in capsys.readouterr().out
    recipe = load_recipe(str(folder / "recipes" / "squad.yaml"))
    assert (recipe.finetune.task, recipe.source("squad").test_ratio) == ("question-answering", 0.2)
    train, test = (
        read_records(recipe.source("squad"), one, TASKS["question-answering"].columns) for one in ("train", "test")
    )
    assert len(train) + len(test) == 54
    assert not {one.text for one in train} & {one.text for one in test}
