"""bertwright init on pairs of texts: each form is seen as data for vectors, and its recipe reads it."""

import csv

import pytest

from bertwright.cli import main
from bertwright.recipe_file import load_recipe
from bertwright.tasks.registry import TASKS
from bertwright.text.records import read_records

COLUMNS = {
    "pairs": ("anchor", "positive"),
    "triplets": ("query", "positive", "negative"),
    "scores": ("sentence1", "sentence2", "score"),
    "whole": ("sentence1", "sentence2", "similarity"),
}


def write(folder, form, rows):
    with (folder / "data.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS[form])
        for number in range(rows):
            texts = [f"the old boat number {number} came in from the sea at {one}" for one in COLUMNS[form]]
            if form in ("scores", "whole"):
                texts[2] = str(number % 5) if form == "whole" else f"{number % 11 / 2}"
            writer.writerow(texts)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [6, 30, 300])
@pytest.mark.parametrize("form", COLUMNS)
def test_init_sees_each_form_and_its_recipe_reads_it(tmp_path, monkeypatch, capsys, form, rows):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, form, rows)
    assert main(["init", "data.csv"]) == 0
    said = capsys.readouterr().out
    assert ", ".join(COLUMNS[form]) in said
    assert ("for a model that predicts the score of a pair, add --text-column sentence1" in said) == (
        form in ("scores", "whole")
    )
    assert "class" not in said
    recipe = load_recipe(tmp_path / "recipes" / "data.yaml")
    assert (recipe.finetune.task, recipe.finetune.encoder) == ("embedding", "bundled")
    source = recipe.source("data")
    task = TASKS["embedding"].on(source).with_settings(recipe.finetune)
    task.check(recipe.finetune)
    assert recipe.finetune.embedding.scores == (form in ("scores", "whole"))
    train = read_records(source, "train", task.columns)
    assert train[0].text_pair.endswith(COLUMNS[form][1])
    assert ("negative" in task.columns) == (form == "triplets")
    # What is left for training, without the validation set, fills a batch.
    assert 2 <= recipe.finetune.batch_size <= len(train) - round(recipe.finetune.validation_ratio * len(train)) - 1


@pytest.mark.slow
def test_the_score_is_predicted_where_its_columns_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "scores", 60)
    named = ["--text-column", "sentence1", "--text-pair-column", "sentence2", "--label-column", "score"]
    assert main(["init", "data.csv", *named]) == 0
    assert load_recipe(tmp_path / "recipes" / "data.yaml").finetune.task == "regression"
