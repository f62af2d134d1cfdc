"""Second texts that a recipe does not name are said, and nothing else is."""

import json

import pytest

from bertwright.cli import main
from bertwright.recipe import Source
from bertwright.text.unread import unread_pair

PAIR = {"text": "A man sleeps.", "text_pair": "Someone is awake.", "label": "no"}
SINGLE = {"text": "A man sleeps.", "label": "no"}


@pytest.mark.parametrize(
    ("row", "options", "columns", "said"),
    [
        (PAIR, {}, ("text", "label"), True),
        (PAIR, {"test_ratio": 0.2}, ("text", "number"), True),
        (PAIR, {"text_pair_column": "text_pair"}, ("text", "text_pair", "label"), False),
        (PAIR, {"text_column": "text_pair"}, ("text", "label"), False),
        (PAIR, {}, ("tokens", "tags"), False),
        (SINGLE, {}, ("text", "label"), False),
        (PAIR | {"text_pair": ""}, {}, ("text", "label"), False),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_column_of_second_texts_is_said_if_it_is_not_read(tmp_path, row, options, columns, said, form):
    path = tmp_path / f"train.{form}"
    if form == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    sentence = unread_pair(Source(path=str(tmp_path), **options), columns)
    assert (sentence is not None) == said
    if sentence is not None:
        assert str(path) in sentence
        assert sentence.endswith("the task is on `text` alone; for pairs of texts set text_pair_column: text_pair")


def test_folders_of_classes_have_no_second_texts(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.txt").write_text("A man sleeps.")
    assert unread_pair(Source(path=str(tmp_path)), ("text", "label")) is None


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
def test_a_run_says_it_before_its_first_stage(tmp_path, capsys, named):
    for split in ("train", "test"):
        rows = [PAIR | {"text": f"A man sleeps {split} {n}.", "label": "yes" if n % 2 else "no"} for n in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    more = ", text_pair_column: text_pair" if named else ""
    recipe.write_text(
        f"name: pairs\nout: {tmp_path / 'run'}\ndata:\n  pairs: {{path: {tmp_path}{more}}}\n"
        "finetune: {data: pairs, encoder: bundled}\n"
    )
    assert main(["baselines", str(recipe)]) == 0
    said = capsys.readouterr().err
    assert (".jsonl has a column `text_pair`, which is not read" in said) == (not named)
