"""Labels as data write them: numbers, lists of names, a column for each name; and pairs, from every format."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.errors import UserError
from bertwright.recipe import FinetuneConfig, Recipe, Source
from bertwright.text.labels import as_labels, as_number
from bertwright.text.overlap import check_entry, evaluated_splits
from bertwright.text.records import account, read_split

MULTI = ("text", "labels")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (3.8, 3.8),
        ("3.80", 3.8),
        (" -1e2 ", -100.0),
        (0, 0.0),
        (None, None),
        ("  ", None),
        (float("nan"), None),
    ],
)
def test_numbers_are_read(value, expected):
    assert as_number(value, "f, line 1") == expected


@pytest.mark.parametrize("value", ["3,5", "high", "nan", "inf", float("inf"), True, [1.0], "1_000", 10**400])
def test_what_is_no_finite_number_is_refused_with_its_place(value):
    with pytest.raises(UserError, match=r"f, line 7 has the label .* which is no finite number"):
        as_number(value, "f, line 7")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["b", "a", "b"], ("b", "a")),
        ('["b", "a"]', ("b", "a")),
        ([], ()),
        ("[]", ()),
        ([1, True, 2.0], ("1", "true", "2")),
        (None, None),
        (" ", None),
    ],
)
def test_lists_of_labels_are_read(value, expected):
    assert as_labels(value, "f, line 1") == expected


@pytest.mark.parametrize("value", ["a, b", "a", 5, {"a": 1}, ["a", None], ["a", ["b"]], '{"a": 1}'])
def test_what_is_no_list_of_labels_is_refused_with_its_place(value):
    with pytest.raises(UserError, match="f, line 7"):
        as_labels(value, "f, line 7")


def test_labels_of_a_schema_are_named():
    assert as_labels([2, 0], "f", ["joy", "fear", "anger"]) == ("anger", "joy")
    with pytest.raises(UserError, match="has the classes joy"):
        as_labels([3], "f", ["joy"])


def read(folder, source, columns, split="train"):
    return read_split(Source(path=str(folder), **source), split, columns)


def test_lists_are_the_same_from_jsonl_csv_and_parquet(tmp_path):
    rows = [{"text": "one", "labels": ["b", "a"]}, {"text": "two", "labels": []}, {"text": "three", "labels": None}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    (tmp_path / "train.csv").write_text('text,labels\none,"[""b"", ""a""]"\ntwo,[]\nthree,\n')
    for suffix in ("jsonl", "csv", "parquet"):
        found = read(tmp_path / f"train.{suffix}", {"label_column": "labels"}, MULTI)
        assert [(one.text, one.labels) for one in found.records] == [("one", ("b", "a")), ("two", ())]
        assert list(found.skipped) == ["no label"]
        assert found.summary()["classes"] == {"a": 1, "b": 1}


def test_the_schema_of_a_list_in_parquet_names_its_labels(tmp_path):
    table = pa.table({"text": ["one"], "labels": [[1, 0]]})
    for feature in (
        {"feature": {"names": ["joy", "fear"], "_type": "ClassLabel"}, "_type": "Sequence"},
        [{"names": ["joy", "fear"], "_type": "ClassLabel"}],
    ):
        info = {"info": {"features": {"labels": feature}}}
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), tmp_path / "train.parquet")
        found = read(tmp_path / "train.parquet", {"label_column": "labels"}, MULTI)
        assert found.records[0].labels == ("fear", "joy")


def test_a_column_for_each_label_is_read(tmp_path):
    (tmp_path / "train.csv").write_text("text,toxic,insult\none,1,0\ntwo,0,0\nthree,,\nfour,1.0,true\n")
    found = read(tmp_path, {"label_columns": ("insult", "toxic")}, MULTI)
    assert [(one.text, one.labels) for one in found.records] == [
        ("one", ("toxic",)),
        ("two", ()),
        ("four", ("insult", "toxic")),
    ]
    assert found.skipped["no label"][0] == 1


@pytest.mark.parametrize(
    ("cell", "words"),
    [("2", "line 3 has '2' in column `toxic` of label_columns"), ("", "line 3 has nothing in column `toxic`")],
)
def test_a_column_of_a_label_holds_nothing_but_0_and_1(tmp_path, cell, words):
    (tmp_path / "train.csv").write_text(f"text,toxic,insult\none,1,0\ntwo,{cell},1\n")
    with pytest.raises(UserError, match=words):
        read(tmp_path, {"label_columns": ("insult", "toxic")}, MULTI)


def test_a_column_of_a_label_that_is_missing_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("text,toxic\none,1\n")
    with pytest.raises(UserError, match=r"has no column `insult`.*set label_columns"):
        read(tmp_path, {"label_columns": ("insult", "toxic")}, MULTI)
    with pytest.raises(UserError, match="each once"):
        Source(path="x", label_columns=("a", "a"))


def test_pairs_of_any_columns_are_read_and_rows_with_half_a_pair_are_counted(tmp_path):
    rows = [{"a": "one", "b": "two", "label": "x"}, {"a": "one", "b": " ", "label": "x"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"text_column": "a", "text_pair_column": "b"}
    found = read(tmp_path, source, ("text", "text_pair", "label"))
    assert [(one.text, one.text_pair, one.label) for one in found.records] == [("one", "two", "x")]
    assert found.skipped["empty text"][0] == 1
    with pytest.raises(UserError, match=r"has no column `second`.*set text_pair_column"):
        read(tmp_path, {**source, "text_pair_column": "second"}, ("text", "text_pair", "label"))


def test_numbers_are_accounted_for_and_divided_without_classes(tmp_path):
    (tmp_path / "all.csv").write_text("text,label\n" + "".join(f"text {n},{n / 3:.3f}\n" for n in range(40)))
    columns, source = ("text", "number"), {"test_ratio": 0.25}
    train, test = (read(tmp_path / "all.csv", source, columns, split) for split in ("train", "test"))
    assert (len(train.records), len(test.records)) == (30, 10)
    assert not {one.text for one in train.records} & {one.text for one in test.records}
    assert "labels from" in account("train", train.summary())
    (tmp_path / "all.csv").write_text("text,label\na,1\nb,high\n")
    with pytest.raises(UserError, match=r"all\.csv, line 3 has the label 'high'"):
        read(tmp_path / "all.csv", source, columns)


@pytest.fixture
def dev_alone(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": split, "label": "a"}) + "\n")

    def build(data=str(tmp_path), **settings):
        return Recipe(name="x", data={"x": data}, finetune=FinetuneConfig(data="x", encoder="bundled", **settings))

    return build


def test_dev_can_be_what_is_evaluated_and_is_then_no_validation_set(dev_alone):
    assert evaluated_splits(dev_alone(test_split="dev")) == ["validation"]
    assert evaluated_splits(dev_alone()) == ["test", "validation"]
    with pytest.raises(UserError, match=r"reads the validation split that the report evaluates on; write x:train"):
        check_entry(dev_alone(test_split="validation"), "x", "prepare.corpora")


def test_a_test_split_that_cannot_be_is_refused(dev_alone, tmp_path):
    with pytest.raises(UserError, match="name a split that is not trained on"):
        dev_alone(test_split="train")
    with pytest.raises(UserError, match="has a test_ratio, which makes the test split"):
        dev_alone(data=Source(path=str(tmp_path), test_ratio=0.2), test_split="dev")


@pytest.mark.parametrize(
    ("header", "mark"),
    [
        ("text, label", ","),
        (" text ,label ", ","),
        ('"text"," label"', ","),
        ("\ufefftext, label", ","),
        ("text; label", ";"),
        ("text\t label", "\t"),
    ],
)
@pytest.mark.parametrize("column", ["label", " label"])
def test_white_space_around_the_names_of_a_header_does_not_count(tmp_path, header, mark, column):
    (tmp_path / "train.csv").write_text(f"{header}\none{mark}a\ntwo{mark}b\n", encoding="utf-8")
    found = read(tmp_path, {"label_column": column}, ("text", "label"))
    assert [(one.text, one.label) for one in found.records] == [("one", "a"), ("two", "b")]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_is_refused_whose_name_another_has(tmp_path, form):
    def write(names, values):
        if form == "csv":
            (tmp_path / "train.csv").write_text(f"{', '.join(names)}\n{','.join(values)}\n")
        else:
            pq.write_table(pa.table([[value] for value in values], names=names), tmp_path / "train.parquet")

    write(["text", "label", "label", "n", "n"], ["one", "a", "b", "1", "2"])
    with pytest.raises(UserError, match=rf"train\.{form} has 2 columns called `label`; rename all but one"):
        read(tmp_path, {}, ("text", "label"))
    write(["text", "label", "n", "n"], ["one", "a", "1", "2"])  # of which none is read
    assert [one.label for one in read(tmp_path, {}, ("text", "label")).records] == ["a"]


def test_half_an_emoji_in_a_label_is_a_question_mark(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "one", "labels": ["a\ud83d", "b"]}) + "\n")
    assert read(tmp_path / "train.jsonl", {"label_column": "labels"}, MULTI).records[0].labels == ("a?", "b")
    (tmp_path / "test.csv").write_text('text,labels\none,"[""a\\ud83d"", ""b""]"\n')
    assert read(tmp_path / "test.csv", {"label_column": "labels"}, MULTI, "test").records[0].labels == ("a?", "b")
