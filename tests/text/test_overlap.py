"""No text that is evaluated on is trained on: by name or by content, as a corpus, as unlabelled texts, as train."""

import json
import shutil
from pathlib import Path

import pytest

from bertwright.cli import main
from bertwright.errors import UserError
from bertwright.files import read_json
from bertwright.recipe import FinetuneConfig, Recipe, Source
from bertwright.text.overlap import (
    check_overlap,
    check_train,
    evaluated_texts,
    fingerprint_of,
    pretraining_overlap,
    train_overlap,
)
from bertwright.text.records import LabelledSplit, Record, read_records


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("corpora", "said"),
    [
        ("reviews", "prepare.corpora is `reviews`, which reads the test split that the report evaluates on; write "
         "reviews:train+unsupervised"),
        ("reviews:train+test", "reads the test split"),
        ("copy", "reads the test split that the report evaluates on; name other texts, or leave it out"),
        ("reviews:validation", "reads the validation split that checkpoints are chosen by; write reviews:train+unsup"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "prepare"])
@pytest.mark.slow
def test_a_corpus_that_reads_an_evaluated_split_is_refused_before_any_work(
    small_data, recipe_file, tmp_path, capsys, corpora, said, command
):
    folder = shutil.copytree(small_data / "reviews", tmp_path / "reviews")
    (folder / "validation.jsonl").write_text('{"text": "Other.", "label": 0}\n')
    (folder / "unsup.jsonl").write_text('{"text": "More."}\n')
    words = ["--prepare.corpora", json.dumps(["books", corpora]), "--data.reviews", folder]
    if corpora == "copy":
        words += ["--data.copy", folder / "te*.jsonl"]
    assert said in refused(capsys, command, recipe_file, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out" / "prepare").exists()
    assert not (tmp_path / "out" / "recipe.yaml").exists()


@pytest.mark.slow
def test_documents_that_are_equal_to_a_test_text_are_left_out_and_counted(small_data, recipe_file, tmp_path):
    rows = [json.loads(line) for line in (small_data / "reviews" / "test.jsonl").read_text().splitlines()]
    copies = [{"text": "\n".join(row["text"].split(" "))} for row in rows]  # other white space is no other text
    near = {"text": rows[0]["text"] + " And more."}
    (tmp_path / "copies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*copies, near]))
    words = [
        "--prepare.corpora",
        '["books", "copies", "reviews:train"]',
        "--data.copies",
        str(tmp_path / "copies.jsonl"),
    ]
    assert main(["prepare", str(recipe_file), "--out", str(tmp_path / "out"), *words]) == 0
    report = read_json(tmp_path / "out" / "prepare" / "data_report.json")
    assert report["sources"]["copies"]["left_out"] == {"equal to a text that is evaluated on": 40}
    assert report["sources"]["books"]["left_out"] == {}
    assert report["overlap"]["documents_left_out"] == 40
    train, heldout = report["train"]["documents"], report["heldout"]["documents"]
    assert train + heldout == 30 + 1 + 40


@pytest.mark.slow
def test_one_file_that_is_divided_may_be_a_corpus_without_its_test_texts(small_data, recipe_file, tmp_path, capsys):
    lines = [(small_data / "reviews" / f"{split}.jsonl").read_text() for split in ("train", "test")]
    (tmp_path / "tickets.jsonl").write_text("".join(lines))
    content = recipe_file.read_text().replace(
        str(small_data / "reviews"), f"{{path: {tmp_path / 'tickets.jsonl'}, test_ratio: 0.25}}"
    )
    (tmp_path / "own.yaml").write_text(content)
    assert main(["prepare", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "out")]) == 0
    report = read_json(tmp_path / "out" / "prepare" / "data_report.json")
    assert report["sources"]["reviews:train"]["left_out"] == {"equal to a text that is evaluated on": 20}


@pytest.mark.slow
def test_lines_of_a_longer_document_that_are_test_texts_are_left_out(small_data, recipe_file, tmp_path):
    rows = [json.loads(line) for line in (small_data / "reviews" / "test.jsonl").read_text().splitlines()]
    (tmp_path / "mixed.txt").write_text(
        "\n".join(f"A line of its own, {i}.\n  {row['text']} " for i, row in enumerate(rows))
    )
    content = recipe_file.read_text().replace(str(small_data / "books"), str(tmp_path / "mixed.txt"))
    (tmp_path / "own.yaml").write_text(content)
    assert main(["prepare", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "out")]) == 0
    report = read_json(tmp_path / "out" / "prepare" / "data_report.json")["sources"]["books"]
    assert report["changed"] == {"without lines that are equal to a text that is evaluated on": 1}
    assert report["sentences"] == len(rows)


def records(*texts: str) -> list[Record]:
    return [Record(str(number), text, label=str(number % 2)) for number, text in enumerate(texts)]


def test_test_texts_in_train_are_counted_and_the_same_rows_are_refused():
    train, test = records("a  b", "c", "d"), records("a b", "e", "d\n", "f")
    assert train_overlap(train, test) == {"test_texts": 2, "all_test_texts": 4}
    check_train(train, test, "data.x")
    with pytest.raises(UserError, match=r"data\.x: the test split has the same 3 rows as train"):
        check_train(train, records("a b", "c", "d"), "data.x")


def test_of_a_pre_training_that_did_not_leave_out_these_texts_nothing_is_known(tmp_path: Path):
    for split in ("train", "test"):
        rows = [{"text": f"{split} {number}", "label": number % 2} for number in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(name="x", data={"x": str(tmp_path)}, finetune=FinetuneConfig(data="x", encoder="bundled"))
    evaluated = evaluated_texts(recipe, ("text", "label"))
    assert len(evaluated) == len(read_records(Source(path=str(tmp_path)), "test", ("text", "label"))) == 4
    report = {"overlap": {"evaluated": fingerprint_of(evaluated), "documents_left_out": 3}}
    assert pretraining_overlap(report, evaluated) == {"test_texts": 0, "documents_left_out": 3}
    for other in (None, {}, {"overlap": {"evaluated": "another", "documents_left_out": 3}}):
        assert pretraining_overlap(other, evaluated) == "unknown"


def split_of(*rows):
    return LabelledSplit(
        [Record(str(n), text, label="a", group=group) for n, (text, group) in enumerate(rows)], (), 0, {}
    )


@pytest.mark.parametrize("test", ["test", "validation"])
def test_groups_that_train_has_too_are_counted_beside_copies(test):
    train = split_of(("one", "x"), ("two", "x"), ("three", "y"))
    evaluated = split_of(("one", "x"), ("four", "y"), ("five", "z"))
    splits = {"train": train, test: evaluated}
    said = ["1 of 3 test texts stand in train, too", "2 of 3 test texts belong to groups that train has, too"]
    assert check_overlap(splits, "data.x") == said
    assert train_overlap(train.records, evaluated.records) == {
        "test_texts": 1,
        "all_test_texts": 3,
        "texts_of_train_groups": 2,
    }
    if test == "test":
        shared = "1 of 2 validation texts belong to groups that train has, too"
        own = {"validation": split_of(("six", "y"), ("seven", "w"))}
        assert check_overlap(splits | own, "data.x") == [*said, shared]
    alone = {"train": split_of(("one", None)), test: split_of(("two", None))}
    assert check_overlap(alone, "data.x") == []
