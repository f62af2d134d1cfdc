"""Whole rows of a file, all columns kept; a bad row costs itself."""

import copy
import csv
import io
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertwright.errors import UserError
from bertwright.text.decoding import numbered
from bertwright.text.formats import place, read_rows, read_text
from bertwright.text.tables import open_table

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8)


def content(path):
    table = open_table(path)
    return table.columns, [row.values for row in table.rows()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.sampled_from(",;\t"))
@pytest.mark.slow
def test_csv_is_read_as_the_standard_library_writes_it(tmp_path, rows, mark):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=mark)
    writer.writerows([("text", "label"), *rows])
    (tmp_path / "a.csv").write_text(stream.getvalue(), newline="", encoding="utf-8")
    assert content(tmp_path / "a.csv") == (["text", "label"], [list(row) for row in rows])


def test_json_lines_with_other_keys_are_one_table(tmp_path):
    rows = [{"a": 1}, {"b": "x"}, {"a": None, "b": [1, 2]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert content(tmp_path / "a.jsonl") == (["a", "b"], [[1, None], [None, "x"], [None, [1, 2]]])


def test_rows_of_a_list_are_no_lines(tmp_path):
    path = tmp_path / "a.json"
    for content, places in (
        (json.dumps([{"text": "one"}, [1]], indent=1), ["row 1", "row 2"]),
        ('{"text": "one"}\n\n{"text": "two"}\n', ["line 1", "line 3"]),
    ):
        path.write_text(content)
        assert [place(path, row.number) for row in open_table(path).rows()] == [f"{path}, {one}" for one in places]
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "a.parquet")
    numbers = [row.number for row in open_table(tmp_path / "a.parquet").rows()]
    copies = [pickle.loads(pickle.dumps(numbers)), copy.deepcopy(numbers)]
    assert [[numbered(one) for one in found] for found in (numbers, *copies)] == [["row 1", "row 2"]] * 3


def test_a_bad_row_costs_itself_and_says_why(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": \n[1]\n{"text": "two"}\n')
    rows = list(open_table(tmp_path / "a.jsonl").rows())
    assert [row.values for row in rows] == [["one"], [None], [None], ["two"]]
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert rows[1].problem.startswith("is not valid JSON")
    assert rows[2].problem == "is not a JSON object"
    (tmp_path / "a.csv").write_text("text,label\none,1\ntwo,2,3\nthree\nfour,4\n")
    rows = list(open_table(tmp_path / "a.csv").rows())
    assert [row.values for row in rows] == [["one", "1"], ["two", "2"], ["three", None], ["four", "4"]]
    assert [row.problem is None for row in rows] == [True, False, False, True]


def test_an_open_quotation_mark_is_refused_where_it_begins(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\none,1\n"two,2\nthree,3\n')
    with pytest.raises(UserError, match="line 3 begins a row that is not valid CSV"):
        content(tmp_path / "a.csv")


def test_half_an_emoji_in_json_is_a_question_mark_and_a_whole_one_stays(tmp_path):
    row = r'{"a\ud83d": "x\uDE00", "b": ["\ud83d\ude00", "\\ud83d", "\\\ud83d", {"c\ud83d": 1}]}'
    expected = (["a?", "b"], [["x?", ["😀", r"\ud83d", "\\?", {"c?": 1}]]])
    for name, text in (("a.jsonl", f"{row}\n"), ("a.json", f"[\n{row}\n]")):
        (tmp_path / name).write_text(text)
        assert content(tmp_path / name) == expected


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_name_of_a_column_may_have_several_lines(tmp_path, mark):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=mark).writerows([["the text\nof a review", "label"], ["A film.", "good"]])
    assert content(path) == (["the text\nof a review", "label"], [["A film.", "good"]])
    columns = [("the text\nof a review", "text_column"), ("label", "label_column")]
    assert [values for _, values in read_rows(path, columns)] == [["A film.", "good"]]  # as training reads it


@pytest.mark.parametrize("written", ['[{"text": "one"}, {"text": "two"}]', '[\n{"text": "one"},\n{"text": "two"}\n]\n'])
def test_a_list_that_is_called_lines_is_read_as_training_reads_it(tmp_path, written):
    path = tmp_path / "a.jsonl"
    path.write_text(written)
    expected = [(number, values) for number, values in read_rows(path, [("text", "text_column")])]
    assert expected == [(1, ["one"]), (2, ["two"])]
    assert [(row.number, row.values) for row in open_table(path).rows()] == expected


def test_lines_that_carriage_returns_end_are_lines(tmp_path):
    path = tmp_path / "a.txt"
    lines = [f"line {number}" for number in range(25_000)]
    path.write_bytes("\r".join(lines).encode())
    assert [row.values for row in open_table(path).rows()] == [[line] for line in lines]
    assert "".join(read_text(path)) == "\n".join(lines)


def test_a_column_that_is_read_has_a_name_of_its_own(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,text\none,1,two\n")
    table = open_table(path)
    assert table.place_of("label") == 1
    with pytest.raises(UserError, match=r"a.csv has 2 columns called `text`; rename all but one"):
        table.place_of("text")
