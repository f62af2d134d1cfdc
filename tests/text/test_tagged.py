"""Words with tags from every form: lists, CoNLL files, numbers with a schema, spans of characters; and faulty input."""

import itertools
import json
from unicodedata import category, ucd_3_2_0

import datasets
import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertwright.errors import UserError
from bertwright.recipe import Source
from bertwright.text.bert_tokenizer import UNK
from bertwright.text.corpus import read_documents
from bertwright.text.records import account, read_records, read_split
from bertwright.text.tagged import joined, split_words, tags_of_spans

COLUMNS = ("tokens", "tags")
TOKENS = [["Ada", "Lovelace", "met", "Babbage"], ["In", "London", "."]]
TAGS = [["B-PER", "I-PER", "O", "B-PER"], ["O", "B-LOC", "O"]]
CONLL = """-DOCSTART- -X- O O

Ada NNP I-NP B-PER
Lovelace NNP I-NP I-PER
met VBD I-VP O
Babbage NNP I-NP B-PER

In IN I-PP O
London NNP I-NP B-LOC
. . O O
"""


def read(folder, split="train", **columns):
    return read_records(Source(path=str(folder), **columns), split, COLUMNS)


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_rows(folder, name, rows):
    return write(folder, name, "\n".join(json.dumps(row) for row in rows) + "\n")


def as_lists(records):
    tokens = [[record.text[a:b] for a, b in record.words] for record in records]
    return tokens, [list(record.tags) for record in records]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "schema", "conll", "txt", "crlf", "tabs", "spans"])
def test_every_form_gives_the_same_words_and_tags(tmp_path, form):
    rows = [{"tokens": tokens, "tags": tags} for tokens, tags in zip(TOKENS, TAGS, strict=True)]
    columns = {}
    if form == "jsonl":
        write_rows(tmp_path, "train.jsonl", rows)
    elif form == "csv":
        cells = [",".join('"' + json.dumps(row[name]).replace('"', '""') + '"' for name in COLUMNS) for row in rows]
        write(tmp_path, "train.csv", "\n".join(["tokens,tags", *cells]) + "\n")
    elif form == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    elif form == "schema":
        names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
        numbers = [{"tokens": row["tokens"], "ner_tags": [names.index(tag) for tag in row["tags"]]} for row in rows]
        features = datasets.Features(
            tokens=datasets.List(datasets.Value("string")), ner_tags=datasets.List(datasets.ClassLabel(names=names))
        )
        datasets.Dataset.from_list(numbers, features=features).to_parquet(tmp_path / "train.parquet")
        columns = {"tags_column": "ner_tags"}
    elif form in ("conll", "txt"):
        write(tmp_path, f"train.{form}", CONLL)
    elif form == "crlf":
        (tmp_path / "train.conll").write_bytes(CONLL.replace("\n", "\r\n").encode())
    elif form == "tabs":
        write(tmp_path, "train.conll", CONLL.replace(" ", "\t"))
    else:
        text = "Ada Lovelace met Babbage"
        spans = [{"start": 0, "end": 12, "label": "PER"}, {"start": 17, "end": 24, "label": "PER"}]
        second = {"text": "In London.", "entities": [{"start": 3, "end": 9, "label": "LOC"}]}
        write_rows(tmp_path, "train.jsonl", [{"text": text, "entities": spans}, second])
        columns = {"entities_column": "entities"}
    records = read(tmp_path, **columns)
    assert as_lists(records) == (TOKENS, TAGS)
    assert records[0].text == "Ada Lovelace met Babbage"
    split = read_split(Source(path=str(tmp_path), **columns), "train", COLUMNS)
    assert "LOC: 1, PER: 2" in account("train", split.summary())


def test_another_column_of_a_conll_file_can_be_the_tag(tmp_path):
    write(tmp_path, "train.conll", CONLL)
    assert as_lists(read(tmp_path, tags_column="2"))[1] == [["NNP", "NNP", "VBD", "NNP"], ["IN", "NNP", "."]]
    with pytest.raises(UserError, match=r"has columns 1 to 4 and no `5`; set tags_column to one of these numbers"):
        read(tmp_path, tags_column="5")


def test_remarks_before_a_sentence_are_no_words_but_a_number_sign_is(tmp_path):
    text = "# newdoc\n# text = Ada sat\nAda\tX\tB-PER\nsat\tX\tO\n\n# 1\n#\tX\tO\n1\tX\tO\n#\tX\tO\n\n# the very end\n"
    write(tmp_path, "train.conll", text)
    records = read(tmp_path)
    assert as_lists(records)[0] == [["Ada", "sat"], ["#", "1", "#"]]
    assert [record.place.rpartition(" ")[2] for record in records] == ["3", "7"]


@pytest.mark.parametrize("head", ["", "# global.columns = FORM XPOS\n\n"])
def test_remarks_of_two_words_are_no_words_where_tabs_part_columns(tmp_path, head):
    """As a .conllu file cut to two columns has them."""
    remarks = "# newdoc\n# newpar\n#sent_id=1\n# text = Ada sat\n"
    write(tmp_path, "train.conll", f"{head}{remarks}Ada\tB-PER\n#\tO\n\n# newpar\n#x\tO\n#\tO\n")
    records = read(tmp_path)
    assert as_lists(records) == ([["Ada", "#"], ["#x", "#"]], [["B-PER", "O"], ["O", "O"]])


def test_words_alone_are_documents_and_no_rows_with_tags(tmp_path):
    write(tmp_path, "train.conll", "Ada\nsat\n\n#\n.\n")
    assert [one.text for one in read_documents(Source(path=str(tmp_path)), None)] == ["Ada sat", "# ."]
    with pytest.raises(UserError, match="line 1 has 1 column where a word and its tag are expected"):
        read(tmp_path)


def test_sentences_of_a_conll_file_are_documents_too(tmp_path):
    write(tmp_path, "train.conll", CONLL)
    documents = [one.text for one in read_documents(Source(path=str(tmp_path)), None)]
    assert documents == ["Ada Lovelace met Babbage", "In London ."]


def test_iob1_is_converted_and_said(tmp_path):
    write(tmp_path, "train.conll", "Ada I-PER\nKing I-PER\nAda B-PER\n\nLondon I-LOC\n")
    split = read_split(Source(path=str(tmp_path)), "train", COLUMNS)
    assert [record.tags for record in split.records] == [("B-PER", "I-PER", "B-PER"), ("B-LOC",)]
    assert "; tags are IOB1, read as BIO" in account("train", split.summary())


def test_a_row_without_tags_or_tokens_is_skipped_and_counted(tmp_path):
    rows = [{"tokens": ["a"], "tags": ["B-x"]}, {"tokens": ["a"], "tags": None}, {"tokens": [], "tags": []}]
    write_rows(tmp_path, "train.jsonl", rows)
    split = read_split(Source(path=str(tmp_path)), "train", COLUMNS)
    assert {reason: count for reason, (count, _) in split.skipped.items()} == {"no label": 1, "empty text": 1}


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\u00ad \u00ad"])
def test_a_text_without_a_word_is_skipped_as_one_without_text(tmp_path, text):
    rows = [{"text": text, "entities": []}, {"text": "Ada", "entities": [{"start": 0, "end": 3, "label": "PER"}]}]
    write_rows(tmp_path, "train.jsonl", rows)
    split = read_split(Source(path=str(tmp_path), entities_column="entities"), "train", COLUMNS)
    assert [record.text for record in split.records] == ["Ada"]
    assert {reason: count for reason, (count, _) in split.skipped.items()} == {"empty text": 1}


def test_one_file_is_divided_by_test_ratio_and_no_row_is_in_both_parts(tmp_path):
    rows = [{"tokens": [f"w{i}", "x"], "tags": ["B-a", "O"]} for i in range(40)]
    write_rows(tmp_path, "all.jsonl", rows)
    parts = [read(tmp_path / "all.jsonl", split, test_ratio=0.25) for split in ("train", "test")]
    assert [len(part) for part in parts] == [30, 10]
    assert not {one.text for one in parts[0]} & {one.text for one in parts[1]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 2 has 2 tokens and 1 tags; give each token one tag"),
        ({"tokens": "a b", "tags": ["O"]}, "line 2 has text where a list of tokens is expected"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "line 2: token 2 of 2 is empty"),
        ({"tokens": ["a", 5], "tags": ["O", "O"]}, "line 2: token 2 of 2 is int"),
        ({"tokens": ["a"], "tags": [3]}, "line 2: tag 1 is 3, and the data's schema names no tags; write names"),
        ({"tokens": ["a"], "tags": [None]}, "line 2: tag 1 is None"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-LOC"]}, "line 2, word 2 has the tag 'I-LOC' after O"),
        ({"tokens": ["a", "b"], "tags": ["O", "LOC"]}, "line 2, word 2 has the tag 'LOC', which is neither"),
        ({"tokens": ["a"]}, "line 2 has no column `tags`; it has: tokens; set tags_column"),
    ],
)
def test_faulty_lists_are_refused_with_file_and_line(tmp_path, row, message):
    write_rows(tmp_path, "train.jsonl", [{"tokens": ["a"], "tags": ["B-LOC"]}, row])
    with pytest.raises(UserError, match=rf"train\.jsonl, {message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a B-x\n\nc O\nb\n", "line 4 has 1 column where others have 2"),
        ("a O\n\nb c O\n", "line 3 has 3 columns where others have 2"),
        ("# id 5\na O\n# id 6\nb B-x\n", "line 3 has 3 columns where others have 2"),
        ("#\na O\n", "line 1 has 1 column where others have 2"),
        ("just\nwords\n", "line 1 has 1 column where a word and its tag are expected"),
        ("-DOCSTART- O\n\na B-x\nb O\nc I-x\n\nd O\n", "line 5 has the tag 'I-x' after O"),
    ],
)
def test_faulty_conll_files_are_refused_with_the_line_of_the_word(tmp_path, text, message):
    write(tmp_path, "train.conll", text)
    with pytest.raises(UserError, match=rf"train\.conll, {message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 99, "LOC")], r"entity 1 \(LOC, characters 0 to 99\) does not fit the text, which has 16 characters"),
        ([(4, 4, "LOC")], "does not fit the text"),
        ([(-1, 4, "LOC")], "does not fit the text"),
        ([(0, 5, "ORG")], r"'Germa'\) cuts the word 'Germans', characters 0 to 7"),
        ([(0, 7, "ORG"), (0, 7, "LOC")], r"entity 2 \(LOC, characters 0 to 7\) overlaps another at 'Germans'"),
        ([(7, 8, "ORG")], "holds no word"),
        ([("0", 7, "ORG")], "start '0' and end 7; both count characters"),
        ([(0, 7, "")], "the name of its type"),
    ],
)
def test_spans_that_do_not_fit_are_refused_with_file_and_line(tmp_path, spans, message):
    entities = [{"start": start, "end": end, "label": label} for start, end, label in spans]
    write_rows(tmp_path, "train.jsonl", [{"text": "Germans met him.", "entities": entities}])
    with pytest.raises(UserError, match=rf"train\.jsonl, line 1: .*{message}"):
        read(tmp_path, entities_column="entities")


def test_white_space_at_the_ends_of_a_span_belongs_to_no_word():
    text = "met Ada King ."
    spans = [{"start": 3, "end": 13, "label": "PER", "note": "kept by a tool"}]
    assert tags_of_spans(text, split_words(text), spans, "here") == ("O", "B-PER", "I-PER", "O")


# The two know Unicode of different years.
KNOWN = st.characters(exclude_categories=["Cs", "Co", "Cn"]).filter(lambda c: ucd_3_2_0.category(c) == category(c))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.text(KNOWN, max_size=30))
@example("U.S. cafe\u0301 北京 a\u200bb foo\x00bar \ufe0f [UNK] [CLS]")
@example("İstanbul ΟΔΥΣΣΕΥΣ 안녕 ﬁne 👍🏽")
def test_words_are_those_of_berts_own_tokenizer_in_every_script(text):
    words = split_words(text)
    assert all(a < b for a, b in words)
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(words))
    ends = [0, *(end for _, end in words)], [*(start for start, _ in words), len(text)]
    outside = "".join(text[a:b] for a, b in zip(*ends, strict=True))
    basic = transformers.models.bert.tokenization_bert_legacy.BasicTokenizer(do_lower_case=False, strip_accents=False)
    assert basic.tokenize(outside) == []
    assert [basic.tokenize(text[a:b]) for a, b in words] == [[word] for word in basic.tokenize(text)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), max_size=8))
def test_joined_tokens_stand_where_their_places_say(tokens):
    text, words = joined(tokens)
    assert [text[a:b] for a, b in words] == tokens
    assert UNK not in text or any(UNK in token for token in tokens)
