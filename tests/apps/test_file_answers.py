"""predict --file and embed --file: all columns kept, in constant memory, and a bad row costs itself."""

import csv
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bertwright
from bertwright.apps.file_answers import open_rows, predict_into
from bertwright.cli import main
from bertwright.tasks.sequence import Classification
from bertwright.tasks.task import Prediction

ROWS = [
    ["7", 'He said "no, never", and left.', "a;b"],
    ["8", "A dreadful film,\nin two lines.", ""],
    ["9", "", "empty"],
    ["10", "A wonderful film.", "ü\t€"],
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def table(folder):
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["id", "text", "label"], *ROWS])
    return folder / "in.csv"


def read(path, delimiter=","):
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), delimiter=delimiter))


@pytest.mark.parametrize("out", ["out.csv", "deep/out.tsv"])
@pytest.mark.slow
def test_predictions_stand_behind_all_columns(table, folder, out, capsys):
    assert main(["predict", "--file", "in.csv", "--out", out]) == 0
    header, *rows = read(folder / out, "\t" if out.endswith("tsv") else ",")
    added = ["predicted_label", "score", "probability_negative", "probability_positive"]
    assert header == ["id", "text", "label", *added]
    assert [row[:3] for row in rows] == ROWS
    expected = bertwright.load().predict([row[1] for row in ROWS if row[1]])
    found = [row for row in rows if row[1]]
    assert [row[3] for row in found] == [one.label for one in expected]
    for row, one in zip(found, expected, strict=True):
        assert float(row[4]) == pytest.approx(one.score, abs=2e-3)
        assert float(row[5]) + float(row[6]) == pytest.approx(1, abs=1e-5)
    assert rows[2][3:] == ["", "", "", ""]
    assert "1 of 4 rows have no answer; the first: in.csv, line 5 has no text" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["jsonl", "parquet", "txt", "tsv"])
@pytest.mark.slow
def test_each_format_is_answered_alike(folder, form):
    texts = ["A wonderful film.", "A dreadful film."]
    path = folder / f"in.{form}"
    rows = [{"text": text, "n": number} for number, text in enumerate(texts)]
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(
            "\n".join((["n\ttext"] if form == "tsv" else []) + ["0\t" * (form == "tsv") + t for t in texts])
        )
    assert main(["predict", "--file", str(path), "--out", "out.jsonl"]) == 0
    found = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in found] == texts
    assert [row["label"] for row in found] == ["positive", "negative"]
    assert form in ("txt", "tsv") or [row["n"] for row in found] == [0, 1]


@pytest.mark.slow
def test_bad_rows_of_all_kinds_cost_themselves(folder, capsys):
    lines = ['{"text": "A wonderful film."}', "{", '{"text": 5}', '{"text": "\\u0000"}', '{"text": "A dreadful film."}']
    (folder / "in.jsonl").write_text("\n".join(lines))
    assert main(["predict", "--file", "in.jsonl", "--out", "out.csv"]) == 0
    assert [row[1] for row in read(folder / "out.csv")] == ["label", "positive", "", "", "", "negative"]
    assert "3 of 5 rows have no answer; the first: in.jsonl, line 2 is not valid JSON" in capsys.readouterr().err


@pytest.mark.slow
def test_the_output_is_whole_or_absent(folder, capsys):
    (folder / "in.csv").write_text("text\n" + "A film.\n" * 5 + '"open\n')
    assert main(["predict", "--file", "in.csv", "--out", "out.csv"]) == 2
    assert "line 7" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--file", "in.csv", "--out", "in.csv"], "is the file that is read"),
        (["--file", "in.csv", "--out", "."], "give such a name"),
        (["--file", "in.csv", "--out", "out.parquet"], "give such a name"),
        (["--out", "out.csv", "A film."], "--file"),
        (["--file", "in.csv", "--text-column", "body"], "has no column `body`"),
        (["--file", "ids.csv"], "--text-column NAME"),
        (["--file", "none.csv"], "does not exist"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_one_sentence(table, folder, capsys, words, expected):
    (folder / "ids.csv").write_text("id,body\n1,A film.\n")
    assert main(["predict", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert expected in said
    assert table.read_text(encoding="utf-8").startswith("id,text,label")


@pytest.mark.slow
def test_a_long_text_is_cut_for_vectors_with_a_notice(folder, capsys):
    (folder / "t.txt").write_text("a short one\n" + "word " * 700 + "\n\nlast one\n")
    assert main(["embed", "--file", "t.txt"]) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [len(row["vector"] or []) for row in rows] == [256, 256, 0, 256]
    assert "t.txt, line 2 is longer than the model reads; its last 190 tokens are left out" in said.err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(folder):
    def peak(rows):
        with (folder / "in.csv").open("w") as stream:
            stream.write("id,text\n")
            stream.writelines(f"{number},a film to remember number {number}\n" for number in range(rows))
        opened = open_rows(folder / "in.csv", None)
        tracemalloc.start()
        answer = Prediction("a", 0.7, {"a": 0.7, "b": 0.3})
        predict_into(opened, folder / "out.csv", ["a", "b"], lambda texts: [answer] * len(texts), Classification())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        with (folder / "out.csv").open() as stream:
            assert sum(1 for _ in stream) == rows + 1
        return found

    small, large = peak(10_000), peak(60_000)
    assert large < 1.1 * small + 5e5


@pytest.mark.slow
def test_explanations_of_a_file_leave_bad_rows_out_as_predictions_do(folder, capsys):
    (folder / "in.jsonl").write_text('{"text": "A fine film."}\n{"text": "\\u0000"}\n{"text": "A dull film."}\n')
    assert main(["predict", "--file", "in.jsonl", "--explain", "--format", "jsonl"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["text"] for line in said.out.splitlines()] == ["A fine film.", "A dull film."]
    assert "1 of 3 rows have no answer; the first: in.jsonl, line 2 has nothing to read" in said.err


@pytest.mark.slow
def test_standard_input_that_is_not_utf_8_is_read_with_question_marks(monkeypatch, capsys):
    stream = io.TextIOWrapper(io.BytesIO("A wonderful café.\n".encode("latin-1")), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    assert main(["predict", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "A wonderful caf?."


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_cell_with_a_carriage_return_alone_stays_one_cell(folder, ending):
    text = "A wonderful film.\rI loved it all."
    (folder / "in.jsonl").write_text(json.dumps({"id": "1", "text": text}) + "\n", encoding="utf-8")
    out = folder / f"out{ending}"
    assert main(["predict", "--file", str(folder / "in.jsonl"), "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as stream:
        header, row = csv.reader(stream, delimiter="\t" if ending == ".tsv" else ",")
    assert row[:2] == ["1", text]
    assert len(row) == len(header)
    assert out.read_bytes().count(b"\r") == 1


def test_columns_of_one_name_are_refused_where_one_would_be_lost(folder, capsys):
    (folder / "in.csv").write_text("id,text,text\n1,A wonderful film.,A dreadful film.\n")
    assert main(["predict", "--file", "in.csv", "--out", "out.csv"]) == 2
    assert "in.csv has 2 columns called `text`; rename all but one" in capsys.readouterr().err
    (folder / "in.csv").write_text("text,,\nA wonderful film.,a,b\n")
    assert main(["predict", "--file", "in.csv", "--out", "out.jsonl"]) == 2
    assert "in.csv has 2 columns without a name, and a row of JSON has one of each name" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["in.csv"]
    assert main(["predict", "--file", "in.csv", "--out", "out.csv"]) == 0
    assert read(folder / "out.csv")[1][:3] == ["A wonderful film.", "a", "b"]


def test_numbers_that_json_does_not_have_are_written_so_that_others_read_them(folder):
    numbers = [float("nan"), float("inf"), 1.5]
    rows = [{"text": "A film.", "n": number, "more": {"list": [number]}} for number in numbers]
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    assert main(["predict", "--file", "in.parquet", "--out", "out.jsonl"]) == 0
    lines = (folder / "out.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [(row["n"], row["more"]) for row in found] == [(n, {"list": [n]}) for n in (None, "inf", 1.5)]
