"""embed --file --out: a vector for each row, all columns kept, and a bad row costs itself."""

import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bertwright
from bertwright.apps import file_answers
from bertwright.apps.file_answers import open_rows
from bertwright.apps.vector_files import embed_into
from bertwright.cli import main

pytestmark = pytest.mark.slow  # each command loads the bundled encoder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text('id,text\n1,A film.\n2," "\n3,The old boat.\n4,' + "word " * 600 + "\n")
    return tmp_path


@pytest.fixture
def expected():
    return bertwright.load().encode(["A film.", "The old boat."])


@pytest.mark.parametrize("at_once", [2_000, 2])
def test_a_numpy_file_has_a_row_for_each_row(folder, monkeypatch, capsys, expected, at_once):
    monkeypatch.setattr(file_answers, "AT_ONCE", at_once)
    assert main(["embed", "--file", "in.csv", "--out", "deep/v.npy"]) == 0
    found = np.load("deep/v.npy")
    assert (found.shape, found.dtype) == ((4, 256), np.float32)
    assert np.isnan(found).all(1).tolist() == [False, True, False, False]
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=0.05, atol=0.05)
    said = capsys.readouterr()
    assert said.out == "4 rows written to deep/v.npy, with vectors of 256 numbers\n"
    assert "1 of 4 texts are longer than the 512 tokens that the model reads" in said.err
    assert "1 of 4 rows have no vector; the first: in.csv, line 3 has no text" in said.err


def test_parquet_has_all_columns_and_the_vectors(folder, expected):
    assert main(["embed", "--file", "in.csv", "--out", "v.parquet"]) == 0
    table = pq.read_table("v.parquet")
    assert table.column_names == ["id", "text", "vector"]
    assert table["id"].to_pylist() == ["1", "2", "3", "4"]
    assert table["vector"].type == pa.list_(pa.float32())
    rows = table["vector"].to_pylist()
    assert rows[1] is None
    np.testing.assert_allclose([rows[0], rows[2]], expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_vectors_are_cut_to_their_first_numbers_and_divided_by_their_length(capsys, expected, name):
    assert main(["embed", "--file", "in.csv", "--out", name, "--dimensions", "64"]) == 0
    assert "with vectors of 64 numbers" in capsys.readouterr().out
    rows = np.load(name) if name == "v.npy" else pq.read_table(name)["vector"].to_pylist()
    cut = expected[:, :64] / np.linalg.norm(expected[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose([rows[0], rows[2]], cut, atol=0.01)
    assert main(["embed", "A film.", "--dimensions", "64"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["vector"], cut[0], atol=0.01)


def test_parquet_keeps_the_types_of_parquet_and_a_column_of_our_name(folder):
    source = pa.table({"n": pa.array([1, None], pa.int16()), "text": ["A film.", "A boat."], "vector": [[1], [2, 3]]})
    pq.write_table(source, "in.parquet")
    assert main(["embed", "--file", "in.parquet", "--out", "v.parquet"]) == 0
    table = pq.read_table("v.parquet")
    assert table.column_names == ["n", "text", "vector", "embedded_vector"]
    assert table.drop_columns("embedded_vector").equals(source)


def test_values_of_several_types_in_a_column_are_text(folder):
    rows = [{"text": "A film.", "x": [1, 2]}, {"text": "A boat.", "x": "b"}, {"text": 5}]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n")
    assert main(["embed", "--file", "in.jsonl", "--out", "v.parquet"]) == 0
    table = pq.read_table("v.parquet")
    assert table["x"].to_pylist() == ["[1, 2]", "b", None, None]
    assert [row is None for row in table["vector"].to_pylist()] == [False, False, True, True]


def test_half_an_emoji_in_another_column_or_in_its_name_is_a_question_mark(folder):
    row = {"text": "A film.", "by\ud83d": "B\ud83d", "tags": ["\ud83d"]}
    (folder / "in.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["embed", "--file", "in.jsonl", "--out", "v.parquet"]) == 0
    table = pq.read_table("v.parquet")
    assert table.column_names == ["text", "by?", "tags", "vector"]
    assert (table["by?"].to_pylist(), table["tags"].to_pylist()) == (["B?"], ['["?"]'])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--file", "in.csv", "--out", "v.csv"], "vectors are written as .parquet or .npy"),
        (["--file", "in.csv", "--out", "d.npy"], "d.npy is a folder"),
        (["A film.", "--out", "v.npy"], "--out holds a vector for each text of a --file"),
        (["A film.", "--pooling", "cls", "--per-token"], "--pooling and --dimensions make one vector of a text"),
        (["A film.", "--dimensions", "8", "--per-token"], "make one vector of a text; leave them out, or --per-token"),
        (["A film.", "--dimensions", "0"], "dimensions is 0, and the model's vectors have 256 numbers; give 1 to 256"),
        (["--file", "in.csv", "--out", "v.npy", "--dimensions", "257"], "dimensions is 257, and the model's vectors"),
        (["A film.", "--layers", "2"], "add --per-token"),
        (["--file", "none.csv", "--out", "v.npy"], "does not exist"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(folder, capsys, words, expected):
    (folder / "d.npy").mkdir()
    assert main(["embed", *words]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"in.csv", "d.npy"}


def test_the_file_that_is_read_is_not_overwritten(folder, capsys):
    pq.write_table(pa.table({"text": ["A film."]}), "in.parquet")
    assert main(["embed", "--file", "in.parquet", "--out", "in.parquet"]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert pq.read_table("in.parquet").column_names == ["text"]


def test_a_printed_line_has_the_same_vector(capsys, expected):
    assert main(["embed", "A film."]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line.keys() == {"text", "vector"}
    np.testing.assert_allclose(line["vector"], expected[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["v.npy", "v.parquet"])
def test_memory_does_not_grow_with_the_rows(folder, name):
    class Encoder:
        """In place of a model, which would take minutes for as many rows: vectors from the texts alone."""

        max_length = 8

        def width(self, dimensions):
            return 64

        def encode(self, texts, dimensions):
            vectors = np.array([[len(text)] * 64 for text in texts], np.float32)
            return vectors, np.zeros(len(texts), np.int64)

    def peak(rows):
        with (folder / "many.csv").open("w") as stream:
            stream.write("id,text\n")
            stream.writelines(f"{number},a film to remember number {number}\n" for number in range(rows))
        opened = open_rows(folder / "many.csv", None)
        usual = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(usual)  # a fresh count of Arrow's memory, which is not Python's
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            embed_into(opened, folder / name, Encoder())
            found = tracemalloc.get_traced_memory()[1] + pool.max_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(usual)
        written = np.load(folder / name) if name == "v.npy" else pq.read_table(folder / name)
        assert len(written) == rows
        return found

    small, large = peak(10_000), peak(40_000)  # 2.5 and 10 MB of vectors
    assert large < 1.1 * small + 5e5
