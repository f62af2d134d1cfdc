"""Reading corpora through the public functions: formats, folders, archives, the hub, and what goes wrong."""

import codecs
import csv
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.run_folder import RunFolder
from bertwright.tasks.sequence import Classification
from bertwright.text import corpus
from bertwright.text.corpus import (
    describe,
    parse_corpus_name,
    parts_read,
    read_documents,
    source_fingerprint,
)
from bertwright.text.records import NO_LABEL, NO_TEXT, Record, ordered_classes, read_records, read_split

ROWS = [
    {"text": 'One.\n\nTwo, "quoted", é 漢.', "label": 0},
    {"text": "", "label": 1},
    {"text": "A last <br /> text", "label": 1},
]


def _jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: list[dict]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _parquet(rows: list[dict]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2)
    return stream.getvalue()


def _archive(name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 50_000
        archive.addfile(member, io.BytesIO(os.urandom(25_000).hex().encode()))
    return stream.getvalue()


FORMATS: dict[str, Callable[[list[dict]], bytes]] = {
    ".jsonl": _jsonl,
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": _csv,
    ".parquet": _parquet,
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


def _texts(path: Path | str, splits: list[str] | None = None, **options: str) -> list[str]:
    return [document.text for document in read_documents(Source(path=str(path), **options), splits)]


def _message(path: Path | str, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        _texts(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _labelled(path: Path, split: str = "train", **options: str) -> list[Record]:
    """Labelled rows, looked at as a run looks at them before it trains."""
    task = Classification()
    records = read_records(Source(path=str(path), **options), split, task.columns)
    task.label_names(records, None, f"{path}, split {split},")
    return records


def _labelled_message(path: Path, split: str = "train", **options: str) -> str:
    with pytest.raises(UserError) as caught:
        _labelled(path, split, **options)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_table_format_and_compression_gives_back_texts_and_labels(
    tmp_path: Path, suffix: str, compression: str
) -> None:
    path = tmp_path / f"train{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](FORMATS[suffix](ROWS)))
    assert _texts(path) == [row["text"] for row in ROWS]
    found = read_split(Source(path=str(path)), "train", ("text", "label"))
    assert found.records == [
        Record("train/0", ROWS[0]["text"], label="0"),
        Record("train/2", ROWS[2]["text"], label="1"),
    ]
    where = f"{path}, {'row 2' if suffix in ('.parquet', '.json') else 'line'}"
    ((reason, (count, first)),) = found.skipped.items()
    assert (found.rows, reason, count) == (3, NO_TEXT, 1)
    assert first.startswith(where)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_text_file_is_one_document_or_one_sentence_a_line(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"book.txt{compression}"
    path.write_bytes(COMPRESSIONS[compression]("One é.\r\nTwo.\n\n\nThree.\n".encode()))
    assert _texts(path) == ["One é.\nTwo.\n\n\nThree.\n"]
    found = list(read_documents(Source(path=str(path), rows="sentences"), None))
    assert [(document.text, document.presplit) for document in found] == [("One é.\nTwo.", True), ("Three.", True)]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name, content in (("a.txt", b"Hi."), ("b.csv", b"text\nHi.\n"), ("c.jsonl", b'{"text": "Hi."}\n')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert _texts(tmp_path) == ["Hi."] * 3


def test_texts_of_megabytes_are_read_whole_from_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(_csv([{"text": "word, " * 500_000}]))
    assert _texts(tmp_path / "a.csv") == ["word, " * 500_000]


def test_folders_and_globs_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.jsonl.gz", "a/notes.md", ".hidden/x.txt", "c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/z.jsonl.gz").write_bytes(gzip.compress(b'{"text": "z"}\n\n{"text": null}\n'))
    (tmp_path / "c.csv").write_text("text\nc\n")
    assert _texts(tmp_path) == ["z", "", "b.txt", "c"]
    assert _texts(tmp_path / "*.txt") == ["b.txt"]
    assert _texts(tmp_path / "**" / "*.gz") == ["z", ""]


def test_splits_come_from_names_of_files_and_folders_under_any_usual_spelling(tmp_path: Path) -> None:
    for name in ("train-00.txt", "train-01.txt", "testimony.txt", "dev.txt", "unsup/train_set.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _texts(tmp_path, ["unsupervised", "train"]) == ["unsup/train_set.txt", "train-00.txt", "train-01.txt"]
    assert _texts(tmp_path, ["validation"]) == _texts(tmp_path, ["valid"]) == ["dev.txt"]
    assert len(_texts(tmp_path)) == 5
    with pytest.raises(UserError, match="no split `test`; it has: validation, train, unsupervised"):
        _texts(tmp_path, ["test"])


def test_corpus_names_are_taken_apart() -> None:
    assert parse_corpus_name("imdb:train+unsupervised") == ("imdb", ["train", "unsupervised"])
    assert parse_corpus_name("books") == ("books", None)
    for wrong in ("", ":train", "imdb:", "imdb:train+"):
        with pytest.raises(UserError, match="NAME:SPLIT"):
            parse_corpus_name(wrong)


@pytest.fixture
def acl_imdb(tmp_path: Path) -> Path:
    folder = tmp_path / "aclImdb"
    for name, text in {
        "train/pos/0_9.txt": "Good.",
        "train/neg/1_2.txt": "Bad.",
        "train/unsup/0_0.txt": "Unknown.",
        "train/urls_pos.txt": "http://",
        "test/pos/5_8.txt": "Great.",
        "test/neg/4_1.txt": "Awful.",
        "README.txt": "About",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
def test_acl_imdb_gives_the_same_reviews_as_folder_and_as_archive(acl_imdb: Path, packed: bool) -> None:
    path = acl_imdb
    if packed:
        path = acl_imdb.with_suffix(".tar.gz")
        with tarfile.open(path, "w:gz") as archive:
            archive.add(acl_imdb, "aclImdb")
            evil = tarfile.TarInfo("../../escaped/train/pos/0_1.md")
            archive.addfile(evil, io.BytesIO())
    source = Source(path=str(path))
    assert _labelled(path) == [
        Record("train/neg/1_2", "Bad.", label="negative"),
        Record("train/pos/0_9", "Good.", label="positive"),
    ]
    assert [record.id for record in _labelled(path, "test")] == ["test/neg/4_1", "test/pos/5_8"]
    assert sorted(_texts(path, ["train", "unsup"])) == ["Bad.", "Good.", "Unknown."]
    assert _texts(path, ["unsupervised"]) == ["Unknown."]
    assert len(_texts(path)) == 5
    assert "no label" in _labelled_message(path, "unsupervised")
    assert "no split `validation`" in _labelled_message(path, "validation")
    before = source_fingerprint(source)
    if not packed:
        (acl_imdb / "train/pos/0_9.txt").write_text("Very good.")
        assert source_fingerprint(source) != before


def test_two_entries_share_the_files_and_splits_that_both_would_read(tmp_path: Path, acl_imdb: Path) -> None:
    folder = tmp_path / "tickets"
    folder.mkdir()
    for name in ("train", "test", "more"):
        (folder / f"{name}.jsonl").write_bytes(_jsonl(ROWS))
    whole, pattern = Source(path=str(folder)), Source(path=f"{folder}/t*.jsonl")
    assert list(parts_read(whole, None).values()) == [None, "test", "train"]
    assert parts_read(whole, ["train", "test"]) == parts_read(pattern, None)
    assert not parts_read(whole, ["train"]).keys() & parts_read(pattern, ["test"]).keys()
    reviews = Source(path=str(acl_imdb))
    assert list(parts_read(reviews, ["unsup"]).values()) == ["unsupervised"]
    assert parts_read(reviews, None).keys() > parts_read(reviews, ["test"]).keys()


def test_rows_of_sentences_without_blank_rows_become_blocks_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(_jsonl([{"text": f"sentence {number} ."} for number in range(1200)]))
    counts = Counter[str]()
    source = Source(path=str(path), rows="sentences")
    found = list(read_documents(source, None, counts))
    assert [len(document.text.split("\n")) for document in found] == [512, 512, 176]
    assert "\n".join(document.text for document in found).split("\n")[700] == "sentence 700 ."
    assert counts == {corpus.BLOCKS: 3}
    assert "512 consecutive sentences" in describe(source)


def test_a_blank_row_ends_a_document_however_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(_csv([{"n": 0, "text": f"s{number}" if number % 601 else ""} for number in range(1803)]))
    found = list(read_documents(Source(path=str(path), rows="sentences"), None))
    assert [len(document.text.split("\n")) for document in found] == [600, 600, 600]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.slow
def test_a_document_that_is_too_long_is_cut_at_a_paragraph_without_loss(tmp_path: Path, suffix: str) -> None:
    text = ("word " * 50 + "\n\n") * 80_000
    (tmp_path / f"a{suffix}").write_bytes(text.encode() if suffix == ".txt" else _jsonl([{"text": text}]))
    counts = Counter[str]()
    found = [document.text for document in read_documents(Source(path=str(tmp_path)), None, counts)]
    assert "".join(found) == text
    assert [len(piece) <= corpus.LONGEST_DOCUMENT for piece in found] == [True] * 3
    assert found[1].startswith("\n\nword")
    assert counts == {corpus.CUT: 1}


def test_the_fingerprint_follows_content_and_names_and_not_time_or_place(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    for label, text in (("neg", "one"), ("pos", "two")):
        (folder / label).mkdir(parents=True)
        (folder / label / "a.txt").write_text(text)
    before = source_fingerprint(Source(path=f"{folder}/*/*.txt"))
    os.utime(folder / "neg" / "a.txt", (0, 0))
    shutil.copytree(folder, tmp_path / "second")
    for name in ("first", "second"):
        assert source_fingerprint(Source(path=f"{tmp_path / name}/*/*.txt")) == before
    (folder / "pos" / "a.txt").rename(folder / "pos" / "b.txt")
    assert source_fingerprint(Source(path=f"{folder}/*/*.txt")) != before
    (tmp_path / "second" / "pos" / "a.txt").write_text("owt")
    assert source_fingerprint(Source(path=f"{tmp_path / 'second'}/*/*.txt")) != before


BAD_FILES = {
    "bytes that are not UTF-8": ("a.jsonl", _jsonl(ROWS) + b'{"text": "\xff"}\n', r"a\.jsonl, line 4 is not UTF-8"),
    "such bytes in plain text": ("a.txt", b"one\ntwo \xe9\n", r"a\.txt, line 2 is not UTF-8"),
    "such bytes in CSV": ("a.csv", b'text\n"x\ny"\n\xe9\n', r"a\.csv, line 4 is not UTF-8"),
    "one damaged letter": (
        "a.txt",
        "schöne Grüße\n".encode() * 3 + b"\xfc\n",
        r"most of the file is UTF-8, so that this",
    ),
    "after a byte order mark": ("a.txt", b"\xef\xbb\xbfcaf\xe9\n", r"line 1 is not UTF-8 \(byte 0xe9\)"),
    "malformed JSON": ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', r"a\.jsonl, line 3 is not valid JSON"),
    "a malformed JSON list": ("a.json", b'[\n{"text": "a"},\n{"text" "b"}]', r"a\.json, line 3 is not valid JSON"),
    "a row that is no object": ("a.jsonl", b'{"text": "a"}\n3\n', r"line 2 is not a JSON object"),
    "a missing column": ("a.csv", b"id,texts\n1,a\n", r"no column `text`; it has: id, texts; did you mean `texts`\?"),
    "a column missing once": (
        "a.jsonl",
        b'{"text": "a"}\n{"body": "b"}\n',
        r"line 2 has no column `text`; it has: body",
    ),
    "a missing Parquet column": ("a.parquet", _parquet([{"body": "a"}]), r"has no column `text`; it has: body"),
    "numbers for text": ("a.jsonl", b'{"text": 3}\n', r"line 1 has int where text is expected"),
    "a short CSV row": ("a.csv", b"id,text\n1,a\n2\n", r"line 3 has 1 columns where the header has 2"),
    "an unclosed quotation mark": ("a.csv", b'id,text\n1,a\n2,"b\n3,c\n', r"a\.csv, line 3 opens a quotation mark"),
    "one that the next closes": ("a.csv", b'id,text\n1,"b\n3,c\n4,"d"\n', r"a\.csv, line 2 opens a quotation mark"),
    "text after a quotation mark": ("a.csv", b'id,text\n1,"b" c\n', r"a\.csv, line 2 has text after a closing"),
    "a long CSV row": ("a.csv", b"id,text\n1,a, b\n", r"line 2 has 3 columns where the header has 2; quote texts"),
    "an object of columns": (
        "a.json",
        b'{\n "text": {"0": "a"}\n}',
        r"is one JSON object over many lines, with the keys text",
    ),
    "rows within an object": ("a.json", b'{\n "data": [{"text": "a"}]\n}', r"if its rows are the list `data`"),
    "lists for rows": ("a.jsonl", b'["a", 1]\n["b", 2]\n', r"line 1 is not a JSON object but a list of 2"),
    "a damaged UTF-16": ("a.csv", b"\xff\xfet\x00e", r"has the byte order mark of UTF-16 but is not"),
    "UTF-16 without a mark": ("a.txt", "é".encode("utf-16-le") * 9, r"UTF-16 without a byte order mark"),
    "a truncated gz": ("a.jsonl.gz", gzip.compress(os.urandom(9999))[:-99], r"a\.jsonl\.gz"),
    "a truncated gz text": ("a.txt.gz", gzip.compress(b"words " * 9999)[:-20], r"truncated or damaged"),
    "a truncated xz": ("a.txt.xz", lzma.compress(b"words " * 9999)[:-20], r"truncated or damaged"),
    "a truncated zst": ("a.txt.zst", COMPRESSIONS[".zst"](b"words " * 9999)[:-20], r"truncated or damaged"),
    "a truncated Parquet": ("a.parquet", _parquet(ROWS)[:-20], r"truncated or damaged"),
    "a file that is not compressed": ("a.txt.gz", b"words", r"truncated or damaged"),
    "a truncated archive": ("a.tar.gz", _archive("aclImdb/train/pos/0_9.txt")[:-99], r"truncated or damaged"),
    "an archive without reviews": ("a.tar", bytes(10240), r"holds no reviews"),
    "an empty table": ("a.jsonl", b"", r"a\.jsonl is empty"),
    "an empty CSV": ("a.csv", b"text\n", r"a\.csv is empty"),
    "an empty Parquet": ("a.parquet", b"", r"a\.parquet is empty"),
    "an empty text": ("a.txt", b"", r"a\.txt is empty"),
    "an unknown format": ("a.docx", b"x", r"no known format"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence_that_says_where(tmp_path: Path, fault: str) -> None:
    name, content, pattern = BAD_FILES[fault]
    (tmp_path / name).write_bytes(content)
    assert re.search(pattern, _message(tmp_path / name))


def test_a_place_without_texts_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert "holds no file to read" in _message(tmp_path)
    assert "no readable file matches" in _message(tmp_path / "*.jsonl")
    assert "does not exist" in _message(tmp_path / "absent.jsonl")
    assert "does not exist" in _message("corpora/absent.jsonl")
    assert "one of bookcorpus, wikipedia, imdb" in _message("bokcorpus")
    with pytest.raises(UserError, match="does not exist"):
        read_documents(Source(path="nowhere"), None)


def test_a_preset_means_a_local_folder_only_with_a_separator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bookcorpus").mkdir()
    (tmp_path / "bookcorpus" / "a.txt").write_text("local")
    assert _texts("./bookcorpus") == ["local"]
    assert "sentence" in describe(Source(path="bookcorpus"))
    assert describe(Source(path="./bookcorpus")) == "Each file of ./bookcorpus is a document."


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        ([{"text": "a", "label": None}], "no label in 1 rows, first .*line 1"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], "has only the label `1`"),
        ([{"text": "a", "label": [1]}], "has the label"),
        ([{"text": None, "label": 1}, {"text": " ", "label": 1}], "empty text in 2 rows, first .*line 1"),
        (
            [{"text": "a", "label": 2}, {"text": "b", "label": 0.5}],
            r"in 1 of 2 rows \(first 0.5, .*line 2\): .*regression",
        ),
        ([{"text": "a", "lable": 1}], "no column `label`.* did you mean `lable`.*label_column"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(tmp_path: Path, rows: list[dict], pattern: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(_jsonl(rows))
    assert re.search(pattern, _labelled_message(tmp_path))


def test_numbers_as_pandas_writes_them_are_the_whole_numbers_of_other_formats(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,0.0\nb,1.0\nc,9007199254740993\n")
    found = [record.label for record in _labelled(tmp_path)]
    assert found == ["0", "1", "9007199254740993"]  # one more than floating point can tell apart


def test_labels_may_be_words_and_plain_text_has_none(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("body,class\nx,good\ny,bad\n")
    records = _labelled(tmp_path, text_column="body", label_column="class")
    assert [record.label for record in records] == ["good", "bad"]
    (tmp_path / "test.txt").write_text("x")
    assert "holds no labels" in _labelled_message(tmp_path, "test")
    assert "no split `validation`" in _labelled_message(tmp_path, "validation")


LABELS = {  # as a JSON row has them, what a model calls them, and in which order
    "minus one": ([1, -1, 0, -1], ["-1", "0", "1"]),
    "twelve": ([10, 9, 2, 11, 1], ["1", "2", "9", "10", "11"]),
    "leading zeros": (["01", "1", "2"], ["01", "1", "2"]),
    "truth values": ([True, False], ["false", "true"]),
    "words": (["spam", "Ham", "ham"], ["Ham", "ham", "spam"]),
    "numbers and words": ([2, "10", "none"], ["10", "2", "none"]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_label_is_what_the_data_write_in_every_format(tmp_path: Path, suffix: str, kind: str) -> None:
    labels, expected = LABELS[kind]
    if suffix == ".parquet" and kind == "numbers and words":
        labels = list(map(str, labels))  # a column of Parquet has one type
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    (tmp_path / f"train{suffix}").write_bytes(FORMATS[suffix](rows))
    records = _labelled(tmp_path)
    assert [record.label for record in records] == [
        str(label).lower() if isinstance(label, bool) else str(label) for label in labels
    ]
    assert ordered_classes(records) == expected
    assert Classification().label_names(records, None, "") == expected


def _with_schema(rows: list[dict], names: list[str]) -> bytes:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    stream = io.BytesIO()
    datasets.Dataset.from_list(rows, features=features).to_parquet(stream)
    return stream.getvalue()


def test_the_class_names_of_a_schema_are_used_in_their_order_and_minus_one_is_unlabelled_there(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": number % 4 - 1} for number in range(8)]
    (tmp_path / "train.parquet").write_bytes(_with_schema(rows, ["low", "high", "0"]))
    found = read_split(Source(path=str(tmp_path)), "train", ("text", "label"))
    assert found.skipped == {NO_LABEL: (2, f"{tmp_path / 'train.parquet'}, row 1")}
    assert [record.label for record in found.records] == ["low", "high", "0"] * 2
    task = Classification()
    names = task.label_names(found.records, None, "")
    assert names == ["low", "high", "0"]
    assert task.labels(found.records, names, found.records, "").tolist() == [0, 1, 2] * 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_empty_labels_and_texts_are_skipped_and_counted_with_the_first_place(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"text": text, "label": label} for text, label in (("a", "x"), ("b", None), ("", "x"), ("c", "y"), ("d", ""))
    ]
    (tmp_path / f"train{suffix}").write_bytes(FORMATS[suffix](rows))
    found = read_split(Source(path=str(tmp_path)), "train", ("text", "label"))
    first = {".csv": 2, ".jsonl": 1, ".parquet": 1}[suffix]  # where the first row stands
    unit = "row" if suffix == ".parquet" else "line"
    path = tmp_path / f"train{suffix}"
    summary = found.summary()
    assert (summary["rows"], summary["used"], summary["classes"]) == (5, 2, {"x": 1, "y": 1})
    assert summary["files"] == [str(path)]
    assert summary["skipped"] == [
        {"reason": NO_LABEL, "count": 2, "first": f"{path}, {unit} {first + 1}"},
        {"reason": NO_TEXT, "count": 1, "first": f"{path}, {unit} {first + 2}"},
    ]


def _class_folders(root: Path, classes: dict[str, int], splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.txt").write_text(f"{split} {name} {number}")
    return root


@pytest.mark.parametrize("classes", [["ham", "spam"], ["neg", "neutral", "pos"], ["dev", "ops", "pos"]])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar.gz"])
def test_class_folders_are_read_as_scikit_learn_reads_them(tmp_path: Path, classes: list[str], packed: bool) -> None:
    from sklearn.datasets import load_files

    root = path = _class_folders(tmp_path / "data", dict.fromkeys(classes, 3))
    if packed:
        path = tmp_path / "data.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(root, "data")
    for split in ("train", "test"):
        expected = load_files(root / split, encoding="utf-8")
        records = _labelled(path, split)
        assert {(record.text, record.label) for record in records} == {
            (text, expected.target_names[target]) for text, target in zip(expected.data, expected.target, strict=True)
        }
        assert Classification().label_names(records, None, "") == expected.target_names
    assert len(_texts(path)) == 6 * len(classes)


def test_a_folder_s_own_name_decides_only_where_its_files_names_do_not(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,x\nb,y\n")
    (folder / "test.csv").write_text("text,label\nc,x\n")
    for path in (folder, folder / "*.csv"):
        assert list(parts_read(Source(path=str(path)), None).values()) == ["test", "train"]
    assert list(parts_read(Source(path=str(folder / "train.csv")), None).values()) == ["train"]
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.csv").write_text("text,label\nc,x\n")
    assert list(parts_read(Source(path=str(tmp_path / "val")), None).values()) == ["validation"]


@pytest.mark.parametrize(
    ("one", "other"), [("train.csv", "train.jsonl"), ("train.csv", "training.csv"), ("dev.csv", "valid.csv.gz")]
)
def test_two_copies_of_a_split_are_refused_with_both_names(tmp_path: Path, one: str, other: str) -> None:
    for name in (one, other):
        (tmp_path / name).write_text("text,label\na,x\n")
    message = _message(tmp_path)
    assert str(tmp_path / one) in message
    assert str(tmp_path / other) in message
    assert "twice" in message


def _table(rows: list[dict], suffix: str = ".csv") -> bytes:
    return FORMATS[suffix](rows)


def test_one_file_is_divided_by_class_in_any_order_of_its_rows(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {number}", "label": "abc"[0 if number < 50 else 1 if number < 63 else 2]}
        for number in range(70)
    ]
    found = []
    for name, order in (("one", rows), ("two", rows[::-1])):
        (tmp_path / f"{name}.csv").write_bytes(_table(order))
        source = Source(path=str(tmp_path / f"{name}.csv"), test_ratio=0.2)
        train, test = (read_records(source, split, ("text", "label")) for split in ("train", "test"))
        assert Counter(record.label for record in test) == {"a": 10, "b": 3, "c": 1}
        assert sorted(record.text for record in (*train, *test)) == sorted(row["text"] for row in rows)
        found.append({record.text for record in test})
    assert found[0] == found[1]
    assert found[0] != {row["text"] for row in rows[-14:]}


@pytest.mark.slow
def test_groups_and_equal_texts_are_never_divided(tmp_path: Path) -> None:
    rows = [{"text": f"text {number // 2}", "label": number // 2 % 2, "author": number // 10} for number in range(200)]
    (tmp_path / "all.jsonl").write_bytes(_jsonl(rows))
    for column in (None, "author"):
        source = Source(path=str(tmp_path / "all.jsonl"), test_ratio=0.25, group_column=column)
        train, test = (read_records(source, split, ("text", "label")) for split in ("train", "test"))
        assert not {record.text for record in train} & {record.text for record in test}
        assert abs(len(test) - 50) <= 10
        if column:
            assert not {record.group for record in train} & {record.group for record in test}


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        ([("a", "x"), ("b", "x"), ("c", "y")], "class `y` has one text"),
        ([("a", "x"), ("b", "x"), ("c", "y"), ("c ", "y")], "class `y` has one group of 2 texts"),
    ],
)
def test_what_cannot_be_divided_is_refused(tmp_path: Path, rows: list[tuple[str, str]], pattern: str) -> None:
    (tmp_path / "all.jsonl").write_bytes(_jsonl([{"text": text, "label": label} for text, label in rows]))
    assert re.search(pattern, _labelled_message(tmp_path / "all.jsonl", test_ratio=0.5))


def test_a_test_split_and_a_ratio_for_one_are_refused_together_and_one_file_has_advice(tmp_path: Path) -> None:
    rows = [{"text": str(number), "label": number % 2} for number in range(8)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_bytes(_jsonl(rows))
    assert "has a test split" in _labelled_message(tmp_path, test_ratio=0.5)
    (tmp_path / "test.jsonl").rename(tmp_path / "tickets.jsonl")
    assert "test_ratio" in _labelled_message(tmp_path / "tickets.jsonl", "test")
    assert len(_labelled(tmp_path / "tickets.jsonl", "test", test_ratio=0.5)) == 4
    with pytest.raises(UserError, match=r"test_ratio of x is 1\.5; it must be in \(0, 1\)"):
        Source(path="x", test_ratio=1.5)


ENCODED = {
    "utf-16": codecs.BOM_UTF16_LE + "text,label\nCafé 漢,a\n".encode("utf-16-le"),
    "utf-16 of the other order": codecs.BOM_UTF16_BE + "text,label\nCafé 漢,a\n".encode("utf-16-be"),
    "utf-32": codecs.BOM_UTF32_LE + "text,label\nCafé 漢,a\n".encode("utf-32-le"),
    "utf-8 with a mark": codecs.BOM_UTF8 + "text,label\nCafé 漢,a\n".encode(),
    "carriage returns": "text,label\rCafé 漢,a\r".encode(),
    "semicolons": "text;label\nCafé 漢;a\n".encode(),
    "tabs": "text\tlabel\nCafé 漢\ta\n".encode(),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_a_table_is_read_where_its_encoding_and_columns_can_be_told(tmp_path: Path, kind: str) -> None:
    (tmp_path / "train.csv").write_bytes(ENCODED[kind])
    found = read_split(Source(path=str(tmp_path)), "train", ("text", "label"))
    assert [(record.text, record.label) for record in found.records] == [("Café 漢", "a")]
    said = f" (columns separated by {kind})" if kind in ("semicolons", "tabs") else ""
    assert found.files == (f"{tmp_path / 'train.csv'}{said}",)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a b.txt", "Le café est fermé.\n".encode("latin-1"), "Le café est fermé.\n"),
        ("a.txt.gz", gzip.compress("Le café est fermé.\n".encode("latin-1"), mtime=0), "Le café est fermé.\n"),
        ("a.csv", "text\n“Café”\n".encode("windows-1252"), "“Café”"),
    ],
    ids=["text", "gzip", "table"],
)
def test_the_command_that_converts_a_file_works_as_printed(
    tmp_path: Path, name: str, content: bytes, text: str
) -> None:
    (tmp_path / name).write_bytes(content)
    command = re.search(r"`(.*)`", _message(tmp_path / name))[1]
    subprocess.run(command, shell=True, check=True)
    (new,) = set(tmp_path.iterdir()) - {tmp_path / name}
    assert _texts(new) == [text]


@pytest.mark.slow
def test_memory_stays_constant_while_a_large_file_streams(tmp_path: Path) -> None:
    line = _jsonl([{"text": "some words of a text, " * 4_000}])
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as stream:
        for _ in range(150_000_000 // len(line)):
            stream.write(line)
    program = (
        "import sys\nfrom pathlib import Path\nfrom bertwright.recipe import Source\n"
        "from bertwright.text.corpus import read_documents\n"
        "size = sum(len(document.text) for document in read_documents(Source(path=sys.argv[1]), None))\n"
        # Not getrusage: its maximum survives exec, and would be that of the test process.
        "print(size, Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    size, kibibytes = map(int, done.stdout.split())
    assert size > 140_000_000
    assert kibibytes < 600 * 1024


@pytest.mark.parametrize("pattern", ["", "/**/*.txt"])
def test_what_a_run_writes_among_texts_is_no_text(tmp_path: Path, pattern: str) -> None:
    run = tmp_path / "runs" / "mine"
    (tmp_path / "a.txt").write_text("One. Two.\n")
    source = Source(path=f"{tmp_path}{pattern}")
    before = source_fingerprint(source)
    with RunFolder(run).locked():
        assert source_fingerprint(source) == before
        (run / "prepare").mkdir()
        (run / "prepare" / "begun.json").write_text("{}")
        (run / "notes.txt").write_text("Three.")
        assert source_fingerprint(source) == before
    assert source_fingerprint(source) == before
    (tmp_path / "b.txt").write_text("Three.")
    assert source_fingerprint(source) != before
