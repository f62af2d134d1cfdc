"""bertwright init on words with tags: each form is seen, and its recipe loads and reads them."""

import json

import pytest

from bertwright.cli import main
from bertwright.recipe_file import load_recipe
from bertwright.text.records import read_records

TOKENS = "The weather in London was good when Ada Lovelace came with her letters .".split()
TAGS = ["O", "O", "O", "B-LOC", "O", "O", "O", "B-PER", "I-PER", "O", "O", "O", "O", "O"]
SPANS = [{"start": 15, "end": 21, "label": "LOC"}, {"start": 36, "end": 48, "label": "PER"}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def write(form, path, first=0):
    """Thirty rows that differ in one word."""
    rows = [[f"{TOKENS[0]}{first + number}", *TOKENS[1:]] for number in range(30)]
    if form == "conll":
        path.write_text("\n\n".join("\n".join(f"{a} {b}" for a, b in zip(row, TAGS, strict=True)) for row in rows))
    elif form == "lists":
        path.write_text("\n".join(json.dumps({"id": 1, "tokens": row, "ner_tags": TAGS}) for row in rows))
    else:
        shift = [{**one, "start": one["start"], "end": one["end"]} for one in SPANS]
        text = [" ".join([f"T{(first + number) % 90 + 10}", *row[1:]]) for number, row in enumerate(rows)]
        path.write_text("\n".join(json.dumps({"text": one, "entities": shift}) for one in text))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name", "options"),
    [
        ("lists", "train.jsonl", {"tokens_column": "tokens", "tags_column": "ner_tags"}),
        ("spans", "train.jsonl", {"entities_column": "entities"}),
        ("conll", "train.conll", {"tokens_column": "tokens", "tags_column": "tags"}),
        ("conll", "train.txt", {}),
        ("conll", "all.txt", {}),
    ],
)
def test_words_with_tags_become_a_recipe_that_reads_them(folder, capsys, form, name, options):
    write(form, folder / "data" / name)
    split = name.startswith("train")
    if split:
        write(form, folder / "data" / name.replace("train", "test"), first=50)
    assert main(["init", "data" if split else f"data/{name}"]) == 0
    said = capsys.readouterr().out
    rows = 30 if split else 24
    assert f"entities      2: LOC {rows}, PER {rows}" in said
    assert "English" in said
    recipe = load_recipe(next((folder / "recipes").glob("*.yaml")))
    assert recipe.finetune.task == "token-classification"
    assert recipe.finetune.encoder == "bundled"
    assert not recipe.finetune.averaging_block
    source = recipe.source(recipe.finetune.data)
    assert (source.test_ratio is None) == split
    assert {key: getattr(source, key) for key in options} == options
    for part, count in (("train", rows), ("test", 30 if split else 6)):
        assert len(read_records(source, part, ("tokens", "tags"))) == count


def test_tags_that_fit_no_scheme_are_refused_before_a_recipe_is_written(folder, capsys):
    (folder / "data" / "train.jsonl").write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O", "PER"]}))
    (folder / "data" / "test.jsonl").write_text(json.dumps({"tokens": ["a", "b"], "tags": ["O", "B-PER"]}))
    assert main(["init", "data"]) == 2
    assert "train.jsonl, line 1, word 2 has the tag 'PER'" in capsys.readouterr().err
    assert not (folder / "recipes").exists()
