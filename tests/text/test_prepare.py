"""The prepare stage on small corpora against loops that count and cut the same texts one by one; and its files."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from bertwright.errors import UserError
from bertwright.files import atomic_path
from bertwright.recipe import FinetuneConfig, Phase, PrepareConfig, PretrainConfig, Recipe, Source, TokenizerConfig
from bertwright.text.prepare import prepare_corpus
from bertwright.text.sentences import split_sentences
from bertwright.text.store import CorpusWriter, PreparedCorpus, TokenizedDocuments
from bertwright.text.tokenizing import own_cores
from bertwright.text.wordpiece import SPECIAL_TOKENS, Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *".,!?'\"-<>/", "the", "was", "##ing"]
WORDS = """the The was river walking singing Zoë naïve stone's well-known 1984 3.14 Mr. e.g. etc. U.S. "quoted" (aside)
北京 😀 ΟΔΟΣ [SEP] x""".split()
WORDS.append("q" * 150)


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 12))).capitalize() + draw.choice(".!?…")


def _document(draw: random.Random, sentences: int) -> str:
    return "".join(_sentence(draw) + draw.choice([" ", "\n", "<br /><br />", "  ", "\n\n"]) for _ in range(sentences))


@dataclass
class Corpora:
    """Sources on disk, and the texts that were put in them, in order."""

    folder: Path
    data: dict[str, Source] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def add_rows(self, name: str, texts: list[str]) -> None:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        self.data[name] = Source(path=str(path))
        self.texts[name] = texts

    def add_files(self, name: str, texts: list[str]) -> None:
        (self.folder / name).mkdir()
        for number, text in enumerate(texts):
            (self.folder / name / f"{number:03}.txt").write_text(text)
        self.data[name] = Source(path=str(self.folder / name))
        self.texts[name] = texts

    def add_lines(self, name: str, documents: list[list[str]]) -> None:
        path = self.folder / f"{name}.txt"
        path.write_text("\n\n".join("\n".join(lines) for lines in documents) + "\n")
        self.data[name] = Source(path=str(path), rows="sentences")
        self.texts[name] = ["\n".join(" ".join(line.split()) for line in lines) for lines in documents]

    def recipe(self, vocabulary: Path | None, **options: Any) -> Recipe:
        if vocabulary is None:
            tokenizer = TokenizerConfig(vocab_size=120, min_frequency=1, html_line_breaks=True)
        else:
            tokenizer = TokenizerConfig(path=str(vocabulary), html_line_breaks=True)
        return Recipe(
            name="test",
            data=dict(self.data),
            tokenizer=tokenizer,
            prepare=PrepareConfig(corpora=tuple(self.data), **{"heldout_ratio": 0.1, "workers": 1, **options}),
            pretrain=PretrainConfig(max_steps=1),
            finetune=FinetuneConfig(data=next(iter(self.data))),
        )


@dataclass
class Prepared:
    folder: Path
    corpora: Corpora
    report: dict[str, Any]
    calls: list[tuple[str, int, int]]


def _prepare(corpora: Corpora, folder: Path, vocabulary: Path | None, inputs: str = "in", **options: Any) -> Prepared:
    calls: list[tuple[str, int, int]] = []
    recipe = corpora.recipe(vocabulary, **options)
    report = prepare_corpus(recipe, folder, inputs, lambda *call: calls.append(call))
    return Prepared(folder, corpora, report, calls)


def _rows(path: Path) -> list[tuple[str, list[int], list[int]]]:
    """Source, tokens and sentence lengths of each document, read by pyarrow alone."""
    with pa.memory_map(str(path)) as stream:
        table = pa.ipc.open_file(stream).read_all().to_pylist()
    return [(row["source"], row["input_ids"], row["sentence_lengths"]) for row in table]


def _stories(number: int, seed: int = 3) -> list[str]:
    draw = random.Random(seed)
    return [f"Story {i}. {_document(draw, draw.randint(1, 6))}" for i in range(number)]


def _some(folder: Path, texts: list[str]) -> Corpora:
    corpora = Corpora(folder)
    corpora.add_rows("stories", texts)
    return corpora


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return path


def _build(folder: Path) -> Corpora:
    """Ten batches of work: two of them of one source, the first the slowest of all."""
    draw = random.Random(1)
    corpora = Corpora(folder)
    long = [_document(draw, 3_500) for _ in range(4)]
    corpora.add_rows("novels", [*long, *(_document(draw, draw.randint(1, 9)) for _ in range(20))])
    notes = [_document(draw, draw.randint(1, 9)) for _ in range(25)]
    notes[3] = notes[17] = ""
    notes[5] = " \n\t\n"
    notes[9] = corpora.texts["novels"][7]
    notes[11] = notes[24] = notes[2]
    notes[13] = "Only one sentence."
    corpora.add_files("notes", notes)
    corpora.add_lines("lines", [[_sentence(draw) for _ in range(draw.randint(1, 5))] for _ in range(12)])
    for number in range(6):
        corpora.add_rows(f"small{number}", [_document(draw, draw.randint(1, 4)) for _ in range(number + 1)])
    return corpora


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "data").mkdir()
    return _prepare(_build(folder / "data"), folder / "out" / "prepare", vocabulary)


@dataclass
class Expected:
    source: str
    text: str
    tokens: list[int]
    sentences: list[int]


@pytest.fixture(scope="module")
def expected(prepared: Prepared) -> list[Expected]:
    """All documents that belong in the store, each cut whole, and sentence by sentence, by the library alone."""
    reference = tokenizers.Tokenizer.from_file(str(prepared.folder / "tokenizer" / "tokenizer.json"))
    seen = set()
    documents = []
    for source, texts in prepared.corpora.texts.items():
        for text in texts:
            if not text.strip() or text in seen:
                continue
            seen.add(text)
            plain = re.sub(r"<br ?/?>", "\n", text)
            tokens = reference.encode(plain, add_special_tokens=False).ids
            sentences = text.split("\n") if source == "lines" else split_sentences(text, html_line_breaks=True)
            lengths = [len(reference.encode(sentence, add_special_tokens=False).ids) for sentence in sentences]
            documents.append(Expected(source, text, tokens, [length for length in lengths if length]))
    return documents


def test_every_token_of_every_document_is_stored_once_and_in_order(
    prepared: Prepared, expected: list[Expected]
) -> None:
    train, heldout = (_rows(prepared.folder / name) for name in ("train.arrow", "heldout.arrow"))
    assert len({tuple(document.tokens) for document in expected}) == len(expected) > 70
    coming = {"train": iter(train), "heldout": iter(heldout)}
    heads = {name: next(rows) for name, rows in coming.items()}
    for document in expected:
        row = (document.source, document.tokens, document.sentences)
        name = next((name for name, head in heads.items() if head == row), None)
        assert name is not None, document.text[:200]
        heads[name] = next(coming[name], None)
    assert heads == {"train": None, "heldout": None}
    for _, tokens, lengths in train + heldout:
        assert sum(lengths) == len(tokens)
        assert min(lengths) > 0


def test_the_data_report_counts_what_a_loop_counts(prepared: Prepared, expected: list[Expected]) -> None:
    unknown = VOCABULARY.index("[UNK]")
    seen: set[str] = set()
    totals = Counter[str]()
    for source, texts in prepared.corpora.texts.items():
        report = prepared.report["sources"][source]
        counts = {"empty": 0, "duplicate": 0}
        for text in texts:
            if not text.strip():
                counts["empty"] += 1
            elif text in seen:
                counts["duplicate"] += 1
            seen.add(text)
        stored = [document for document in expected if document.source == source]
        tokens = [token for document in stored for token in document.tokens]
        loop = {
            "documents": len(texts),
            "sentences": sum(len(document.sentences) for document in stored),
            "words": sum(len(document.text.split()) for document in stored),
            "tokens": len(tokens),
            "empty_documents": counts["empty"],
            "duplicate_documents": counts["duplicate"],
            "one_sentence_documents": sum(len(document.sentences) == 1 for document in stored),
        }
        totals.update({**loop, "unknown": tokens.count(unknown)})
        assert {key: report[key] for key in loop} == loop
        assert report["longest_document_tokens"] == max(len(document.tokens) for document in stored)
        assert report["unknown_token_ratio"] == pytest.approx(tokens.count(unknown) / len(tokens))
        assert sorted(report["left_out"].values()) == sorted(count for count in counts.values() if count)
        assert prepared.corpora.data[source].path in report["how"]
    notes = prepared.report["sources"]["notes"]
    assert (notes["documents"], notes["empty_documents"], notes["duplicate_documents"]) == (25, 3, 3)
    assert totals["unknown"] > 100
    total = prepared.report["total"]
    assert total["unknown_token_ratio"] == pytest.approx(totals.pop("unknown") / totals["tokens"])
    assert {key: total[key] for key in totals} == dict(totals)
    assert total["longest_document_tokens"] == max(len(document.tokens) for document in expected)
    assert total["left_out"] == prepared.report["sources"]["notes"]["left_out"]
    parts = {name: _rows(prepared.folder / f"{name}.arrow") for name in ("train", "heldout")}
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    for name, rows in parts.items():
        size = {"documents": len(rows), "tokens": sum(len(tokens) for _, tokens, _ in rows)}
        assert prepared.report[name] == manifest[name] == size
    held = {(source, tuple(tokens)) for source, tokens, _ in parts["heldout"]}
    characters_held = sum(len(one.text) for one in expected if (one.source, tuple(one.tokens)) in held)
    assert total["heldout_characters"] == characters_held > 1_000
    assert json.loads((prepared.folder / "data_report.json").read_text()) == prepared.report
    characters = sum(len(text) for texts in prepared.corpora.texts.values() for text in texts)
    assert prepared.calls[-1] == ("split and tokenize", characters, total["documents"])


@pytest.mark.slow
def test_two_workers_and_another_place_give_the_same_files_to_the_byte(
    prepared: Prepared, vocabulary: Path, tmp_path: Path
) -> None:
    assert sum(map(len, prepared.corpora.texts["novels"])) > 1_100_000  # more than a batch, so that order matters
    (tmp_path / "elsewhere").mkdir()
    again = _prepare(_build(tmp_path / "elsewhere"), tmp_path / "prepare", vocabulary, workers=2)
    for name in ("train.arrow", "heldout.arrow", "manifest.json", "tokenizer/tokenizer.json"):
        assert (again.folder / name).read_bytes() == (prepared.folder / name).read_bytes(), name
    assert _without_paths(again.report) == _without_paths(prepared.report)


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """A report without the places of files, which are all that differs between two copies of a corpus."""
    own = {"how": "", "first_left_out": {}}
    sources = {name: {**part, **own} for name, part in report["sources"].items()}
    return {**report, "sources": sources, "total": {**report["total"], **own}, "notices": len(report["notices"])}


@pytest.mark.slow
def test_a_trained_vocabulary_is_the_same_each_time(tmp_path: Path) -> None:
    corpora = _some(tmp_path, _stories(40))
    first, second = (_prepare(corpora, tmp_path / name, None) for name in ("first", "second"))
    for name in ("tokenizer/vocab.txt", "train.arrow", "heldout.arrow", "manifest.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


def _texts_of(path: Path) -> set[tuple[int, ...]]:
    return {tuple(tokens) for _, tokens, _ in _rows(path)}


@pytest.mark.slow
def test_held_out_documents_are_not_trained_on(prepared: Prepared, vocabulary: Path, tmp_path: Path) -> None:
    train, heldout = (_texts_of(prepared.folder / name) for name in ("train.arrow", "heldout.arrow"))
    assert len(heldout) >= 7
    assert not train & heldout
    repeated = _prepare(_some(tmp_path, _stories(33) * 2), tmp_path / "out", vocabulary, drop_duplicates=False)
    assert repeated.report["total"]["duplicate_documents"] == 33
    assert repeated.report["train"]["documents"] + repeated.report["heldout"]["documents"] == 66
    assert not _texts_of(repeated.folder / "train.arrow") & _texts_of(repeated.folder / "heldout.arrow")


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.3, 0.4])
def test_the_held_out_part_is_as_large_as_asked(vocabulary: Path, tmp_path: Path, ratio: float) -> None:
    report = _prepare(_some(tmp_path, _stories(100)), tmp_path / "out", vocabulary, heldout_ratio=ratio).report
    assert report["heldout"]["documents"] == pytest.approx(100 * ratio, abs=4)
    assert report["train"]["documents"] + report["heldout"]["documents"] == 100


@pytest.mark.slow
def test_the_fingerprint_follows_the_texts_the_tokenizer_and_the_inputs(vocabulary: Path, tmp_path: Path) -> None:
    texts = _stories(12)
    moved, replaced = ([*texts[:5], texts[5] + end, *texts[6:]] for end in (" x", " y"))
    swapped = [texts[1], texts[0], *texts[2:]]
    found = {}
    for name, chosen, inputs in (
        ("as it is", texts, "in"),
        ("once more", texts, "in"),
        ("a word more", moved, "in"),
        ("a letter other", replaced, "in"),
        ("two texts swapped", swapped, "in"),
        ("other inputs", texts, "other"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        made = _prepare(_some(folder, chosen), folder / "out", vocabulary, inputs)
        tokenizer = Tokenizer.load(made.folder / "tokenizer")
        found[name] = tuple(
            PreparedCorpus(made.folder / f"{part}.arrow", tokenizer.fingerprint).fingerprint
            for part in ("train", "heldout")
        )
        assert found[name][0] != found[name][1]
    assert found.pop("once more") == found["as it is"]
    assert len(set(found.values())) == len(found)


def _warnings(folder: Path, texts: list[str], vocabulary: Path, **options: Any) -> list[str]:
    folder.mkdir()
    warnings: list[str] = _prepare(_some(folder, texts), folder / "out", vocabulary, **options).report["warnings"]
    return warnings


@pytest.mark.slow
def test_one_sentence_documents_are_counted_and_warned_about_above_a_tenth(vocabulary: Path, tmp_path: Path) -> None:
    long = [f"Story {i} was. The river." for i in range(18)]
    short = [f"Only river {i}" for i in range(3)]
    assert _warnings(tmp_path / "few", [*long, *short[:2], "", " ", "<br />"], vocabulary) == []
    (warning,) = _warnings(tmp_path / "many", [*long, *short, "", " "], vocabulary)
    assert warning.startswith("stories: 3 of 21 documents have a single sentence")
    assert "rows: sentences" in warning


@pytest.mark.slow
def test_dropped_duplicates_are_no_part_of_the_share_of_one_sentence_documents(
    vocabulary: Path, tmp_path: Path
) -> None:
    long = [f"Story {i} was. The river." for i in range(5)]
    found = _warnings(tmp_path / "repeated", [*long * 4, "Only river"], vocabulary, heldout_ratio=0.2)
    assert [warning for warning in found if "1 of 6 documents have a single sentence" in warning]


@pytest.mark.slow
def test_documents_that_are_used_in_another_shape_are_not_left_out(vocabulary: Path, tmp_path: Path) -> None:
    corpora = Corpora(tmp_path)
    corpora.add_lines("stories", [[f"Story {i} was the river." for i in range(513)]])
    report = _prepare(corpora, tmp_path / "out", vocabulary, heldout_ratio=0.4).report
    for counts in (report["sources"]["stories"], report["total"]):
        assert counts["documents"] == 2
        assert counts["left_out"] == {}
        assert list(counts["changed"].values()) == [2]
    (warning,) = report["warnings"]
    assert warning.startswith("stories: 1 of 2 documents have a single sentence")


@pytest.mark.slow
def test_duplicates_are_warned_about_above_a_twentieth_and_kept_if_asked(vocabulary: Path, tmp_path: Path) -> None:
    texts = [f"Story {i} was. The river." for i in range(20)]
    assert _warnings(tmp_path / "one", [*texts[:19], texts[4]], vocabulary) == []
    for drop, left in ((True, 20), (False, 22)):
        made = _prepare(_some(tmp_path, [*texts, *texts[4:6]]), tmp_path / "out", vocabulary, drop_duplicates=drop)
        assert made.report["warnings"] == ["stories: 2 of 22 documents repeat another one."]
        assert made.report["total"]["duplicate_documents"] == 2
        assert sum(made.report["total"]["left_out"].values()) == 22 - left
        assert made.report["train"]["documents"] + made.report["heldout"]["documents"] == left


@pytest.mark.slow
def test_unknown_tokens_are_warned_about_above_a_two_hundredth(vocabulary: Path, tmp_path: Path) -> None:
    texts = [f"{i % 10} was. The the the the the the the." for i in range(10)]
    texts = [text + f" {letter}" for text, letter in zip(texts, LETTERS, strict=False)]
    size = len(texts) * 12
    padding = "the " * (200 - size % 200)
    assert _warnings(tmp_path / "none", [*texts, padding + ". The"], vocabulary) == []
    tokens, characters = _warnings(tmp_path / "some", [*texts, "北 京. The"], vocabulary)
    assert tokens == f"stories: {2 / (size + 4):.1%} of the tokens are unknown to the vocabulary."
    share = 2 / sum(map(len, [*texts, "北 京. The"]))
    assert characters.startswith(f"stories: {share:.2%} of the characters have no entry in the vocabulary")
    assert characters.endswith(
        "words with them are unknown, unless they are entries as a whole; most often: 京 1, 北 1"
    )


@pytest.mark.slow
def test_a_given_vocabulary_that_does_not_know_the_texts_is_refused(vocabulary: Path, tmp_path: Path) -> None:
    texts = [f"{i % 10} was the 北. The 京 {LETTERS[i]}" for i in range(10)]
    corpora = _some(tmp_path, texts)
    with pytest.raises(UserError) as refused:
        _prepare(corpora, tmp_path / "prepare", vocabulary)
    said = str(refused.value)
    assert said.startswith("25% of the tokens of stories are unknown to the vocabulary of ")
    assert "lacks their characters (most often: 京 北)" in said
    assert "pre-train from scratch" in said
    assert said.endswith("(give neither pretrain.encoder nor tokenizer.path)")
    assert not (tmp_path / "prepare").exists()
    # New words have no known piece, which is said.
    recipe = corpora.recipe(vocabulary)
    grown = dataclasses.replace(recipe, tokenizer=dataclasses.replace(recipe.tokenizer, new_words=2))
    report = prepare_corpus(grown, tmp_path / "grown", "x")
    assert report["total"]["unknown_token_ratio"] == 0
    assert Tokenizer.load(tmp_path / "grown" / "tokenizer").tokens[len(VOCABULARY) :] == ["京", "北"]
    assert any(notice.startswith("2 new words, such as 京, 北: ") for notice in report["notices"])
    assert any(notice.startswith("2 of the new words have characters that the vo") for notice in report["notices"])


@pytest.mark.slow
def test_a_small_corpus_that_a_given_vocabulary_does_not_know_is_refused_beside_a_large_one_that_it_knows(
    vocabulary: Path, tmp_path: Path
) -> None:
    corpora = _some(tmp_path, [f"{i} was the river. The river was singing." for i in range(100)])
    corpora.add_rows("own", [f"北京 {i} was. 北 京" for i in range(10)])
    scratch = (
        "pre-train from scratch, with a vocabulary of these texts (give neither pretrain.encoder nor tokenizer.path)"
    )
    leave = "leave own out of prepare.corpora, or "
    recipe = corpora.recipe(vocabulary)
    for read, advice in (
        (None, leave + scratch),
        (("own",), scratch),
        (("stories",), leave + scratch),
    ):
        pretrain = dataclasses.replace(recipe.pretrain, phases=(Phase(corpora=read),))
        with pytest.raises(UserError) as refused:
            prepare_corpus(dataclasses.replace(recipe, pretrain=pretrain), tmp_path / "prepare", "in")
        assert re.match(r"\d\d% of the tokens of own are unknown to the vocabulary of ", str(refused.value))
        assert str(refused.value).endswith(f"(most often: 京 北); {advice}")
    assert not (tmp_path / "prepare").exists()


def test_settings_of_training_beside_a_given_vocabulary_are_said_to_have_no_effect(tmp_path, vocabulary):
    corpora = _some(tmp_path, _stories(20))
    recipe = corpora.recipe(vocabulary)
    assert prepare_corpus(recipe, tmp_path / "plain", "in")["notices"] == []
    given = {"vocab_size": 500, "sample_megabytes": 1.0, "strip_accents": not recipe.tokenizer.lowercase}
    tokenizer = dataclasses.replace(recipe.tokenizer, **given)
    (notice,) = prepare_corpus(dataclasses.replace(recipe, tokenizer=tokenizer), tmp_path / "given", "in")["notices"]
    said = "tokenizer.vocab_size 500, tokenizer.sample_megabytes 1.0"
    used = f"the tokenizer of {vocabulary} is used, with its {len(VOCABULARY)} entries; without effect: "
    assert notice == used + said  # a vocab.txt says nothing of accents
    # A folder does, and of case.
    Tokenizer.load(tmp_path / "plain" / "tokenizer").save(tmp_path / "whole")
    given = {"path": str(tmp_path / "whole"), "lowercase": False, "strip_accents": False}
    tokenizer = dataclasses.replace(recipe.tokenizer, **given)
    (notice,) = prepare_corpus(dataclasses.replace(recipe, tokenizer=tokenizer), tmp_path / "cased", "in")["notices"]
    assert notice.endswith("without effect: tokenizer.lowercase false, tokenizer.strip_accents false")


@pytest.mark.slow
def test_documents_without_a_single_token_are_left_out_and_listed(vocabulary: Path, tmp_path: Path) -> None:
    texts = _stories(12)
    made = _prepare(_some(tmp_path, [*texts, "<br />", "\x07\u200b", " "]), tmp_path / "out", vocabulary)
    total = made.report["total"]
    assert made.report["train"]["documents"] + made.report["heldout"]["documents"] == 12
    assert (total["documents"], total["empty_documents"]) == (15, 3)
    assert sum(total["left_out"].values()) == 3
    path = made.corpora.data["stories"].path
    assert total["first_left_out"] == {"no token in it": f"{path}, line 13", "empty": f"{path}, line 15"}
    assert made.report["notices"] == [
        f"stories: 3 of 15 documents left out: 1 empty (the first: {path}, line 15); "
        f"2 no token in it (the first: {path}, line 13)"
    ]


@pytest.mark.slow
def test_the_first_place_of_what_is_left_out_is_the_file_or_the_line(vocabulary: Path, tmp_path: Path) -> None:
    corpora = Corpora(tmp_path)
    corpora.add_files("notes", ["One story. Two.", "The river was.", "", "The river was.", "The river was."])
    corpora.add_lines("lines", [["The was.", "The river."], ["the the."], ["The was.", "The river."]])
    report = _prepare(corpora, tmp_path / "out", vocabulary, heldout_ratio=0.3).report
    repeats = "repeats an earlier document to the letter"
    assert report["sources"]["notes"]["left_out"] == {"empty": 1, repeats: 2}
    notes, lines = (report["sources"][name]["first_left_out"] for name in ("notes", "lines"))
    assert notes == {"empty": f"{tmp_path}/notes/002.txt", repeats: f"{tmp_path}/notes/003.txt"}
    assert lines == {repeats: f"{tmp_path}/lines.txt, line 6"}


@pytest.mark.slow
def test_what_is_lost_of_the_texts_is_counted(vocabulary: Path, tmp_path: Path) -> None:
    texts = [*_stories(12), "The naïve Zoë was. हिन्दी में 한국 ガ ❤️.", "was " + "กขคง" * 30 + " " + "q" * 101]
    made = _prepare(_some(tmp_path, texts), tmp_path / "out", vocabulary)
    found = made.report["total"]["characters"]
    assert found["in_text"] == sum(map(len, texts))
    together = "".join(texts)
    assert found["stripped"] == {
        "accents of Latin, Greek and Cyrillic letters": sum(map(together.count, "ïë")),
        "vowel signs and other marks of other scripts": 3 + 1,  # virama, vowel sign and nasal dot; dakuten
        "Hangul syllables, cut into their letters": 2,
    }
    alphabet = set("".join(VOCABULARY[5:]))
    missing = Counter(c for c in together if unicodedata.normalize("NFD", c.lower())[0] not in alphabet | {" ", "\n"})
    for removed in "\ufe0f\u0941\u094d\u0947\u0902":
        missing.pop(removed, None)
    assert found["different_outside_alphabet"] == len(missing)
    assert found["outside_alphabet"] == missing.total()
    assert len(found["most_frequent_outside_alphabet"]) == 10
    assert set(found["most_frequent_outside_alphabet"].values()) <= {n for _, n in missing.most_common(10)}
    long = [word for text in texts for word in re.findall(r"\w{101,}", text)]
    assert found["words_over_100_characters"] == len(long) > 2
    assert found["in_words_over_100_characters"] == sum(map(len, long))
    assert any("words of more than 100 characters are unknown" in warning for warning in made.report["warnings"])
    assert any("set tokenizer.strip_accents: false" in warning for warning in made.report["warnings"])


@pytest.mark.parametrize(("number", "ratio"), [(2, 0.005), (3, 0.1), (2, 0.4), (50, 0.005)])
@pytest.mark.slow
def test_few_documents_leave_one_held_out_and_the_rest_to_train_on(
    vocabulary: Path, tmp_path: Path, number: int, ratio: float
) -> None:
    report = _prepare(_some(tmp_path, _stories(number)), tmp_path / "out", vocabulary, heldout_ratio=ratio).report
    assert report["heldout"]["documents"] == 1
    assert report["train"]["documents"] == number - 1
    said = [notice for notice in report["notices"] if "one is held out" in notice]
    assert said == (
        [] if ratio == 0.4 else [f"prepare.heldout_ratio {ratio:g} of {number} documents is none; one is held out"]
    )


@pytest.mark.slow
def test_a_corpus_without_a_held_out_document_is_named_and_the_advice_helps(vocabulary: Path, tmp_path: Path) -> None:
    corpora = _some(tmp_path, _stories(200))
    corpora.add_rows("general", _stories(40, seed=4))
    corpora.add_rows("blank", ["", " "])
    for ratio, of_general in ((0.005, 0), (0.05, 2)):
        made = _prepare(corpora, tmp_path / "out", vocabulary, heldout_ratio=ratio)
        assert [source for source, *_ in _rows(made.folder / "heldout.arrow")].count("general") == of_general
        assert [notice for notice in made.report["notices"] if "no held-out document" in notice] == (
            [] if of_general else
            ["general has no held-out document, and so no loss of its own; prepare.heldout_ratio is 0.005: raise it"]
        )  # fmt: skip


LONE = {
    "paragraphs": "\n\n".join(_stories(60)),
    "lines": "\n".join(story.replace("\n", " ") for story in _stories(60)),
    "one line": " ".join(story.replace("\n", " ") for story in _stories(60)),
    "a few sentences": "The river was. The singing was. The stone was.",
}


@pytest.mark.parametrize("shape", LONE)
@pytest.mark.parametrize("kind", ["file", "row"])
@pytest.mark.slow
def test_a_single_text_is_cut_into_documents_and_nothing_of_it_is_lost(
    vocabulary: Path, tmp_path: Path, shape: str, kind: str
) -> None:
    corpora = Corpora(tmp_path)
    (corpora.add_files if kind == "file" else corpora.add_rows)("novel", [LONE[shape]])
    made = _prepare(corpora, tmp_path / "out", vocabulary, heldout_ratio=0.005)
    rows = _rows(made.folder / "train.arrow") + _rows(made.folder / "heldout.arrow")
    assert made.report["heldout"]["documents"] == 1
    assert len(rows) == 2 if shape == "a few sentences" else len(rows) > 5
    assert made.report["notices"][0].startswith("the corpus is a single text, which is cut into documents: at ends of")
    assert "is cut into documents" in made.report["sources"]["novel"]["how"]
    tokenizer = Tokenizer.load(made.folder / "tokenizer")
    whole = tokenizer.encode([re.sub(r"<br ?/?>", " ", LONE[shape])])[0].tolist()
    assert sorted(token for _, tokens, _ in rows for token in tokens) == sorted(whole)


@pytest.mark.slow
def test_spelled_special_tokens_are_ordinary_pieces_in_a_prepared_corpus(vocabulary: Path, tmp_path: Path) -> None:
    made = _prepare(_some(tmp_path, ["The [SEP] was [MASK] [PAD] [CLS].", *_stories(12)]), tmp_path / "out", None)
    tokenizer = Tokenizer.load(made.folder / "tokenizer")
    rows = _rows(made.folder / "train.arrow") + _rows(made.folder / "heldout.arrow")
    assert not {token for _, tokens, _ in rows for token in tokens} & {0, 2, 3, 4}
    assert any("[ sep ]" in tokenizer.decode(tokens) for _, tokens, _ in rows)


@pytest.mark.slow
def test_html_line_breaks_are_text_unless_the_recipe_says_otherwise(vocabulary: Path, tmp_path: Path) -> None:
    corpora = _some(tmp_path, [f"Story {i} was<br />the river" for i in range(12)])
    recipe = corpora.recipe(vocabulary)
    plain = dataclasses.replace(recipe, tokenizer=TokenizerConfig(path=str(vocabulary)))
    sentences, tokens = {}, {}
    for name, chosen in (("breaks", recipe), ("plain", plain)):
        total = prepare_corpus(chosen, tmp_path / name, "in")["total"]
        sentences[name], tokens[name] = total["sentences"], total["tokens"]
        assert Tokenizer.load(tmp_path / name / "tokenizer").html_line_breaks == (name == "breaks")
    assert sentences == {"breaks": 24, "plain": 12}
    assert tokens["plain"] == tokens["breaks"] + 12 * len(["<", "b", "##r", "/", ">"])


def test_as_many_workers_as_the_process_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert own_cores() == 2, "of a container or a batch job"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert own_cores() == 128
    monkeypatch.setattr(sys, "platform", "win32")
    assert own_cores() == 61, "more a pool cannot have there"


@pytest.mark.slow
def test_a_line_break_parts_sentences_in_rows_of_sentences_too(vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(f"the river {i}<br />was deep" for i in range(12)))
    source = Source(path=str(tmp_path / "lines.txt"), rows="sentences")
    tokenizer = TokenizerConfig(path=str(vocabulary), html_line_breaks=True)
    prepare, pretrain = PrepareConfig(corpora=("x",), workers=1), PretrainConfig(max_steps=1)
    recipe = Recipe(name="x", data={"x": source}, tokenizer=tokenizer, prepare=prepare, pretrain=pretrain)
    total = prepare_corpus(recipe, tmp_path / "out", "in")["total"]
    assert total["sentences"] == 24


@pytest.mark.slow
def test_half_a_surrogate_pair_costs_no_other_text(vocabulary: Path, tmp_path: Path) -> None:
    texts = [*_stories(12), "The river \ud83d was. The end"]
    made = _prepare(_some(tmp_path, texts), tmp_path / "out", vocabulary)
    tokenizer = Tokenizer.load(made.folder / "tokenizer")
    rows = _rows(made.folder / "train.arrow") + _rows(made.folder / "heldout.arrow")
    assert len(rows) == 13
    assert [tokens for _, tokens, _ in rows if tokenizer.decode(tokens).endswith("was. the end")]


def test_a_given_tokenizer_is_used_and_kept_and_another_one_is_refused(prepared: Prepared, vocabulary: Path) -> None:
    kept = Tokenizer.load(prepared.folder / "tokenizer")
    given = Tokenizer.load(vocabulary, TokenizerConfig())
    assert kept.fingerprint == given.fingerprint
    assert kept.tokens == VOCABULARY
    others = [Tokenizer.load(vocabulary, TokenizerConfig(lowercase=False, strip_accents=True))]
    vocabulary.with_name("other.txt").write_text("\n".join([*VOCABULARY[:-1], "##ed"]) + "\n")
    others.append(Tokenizer.load(vocabulary.with_name("other.txt")))
    for name in ("train.arrow", "heldout.arrow"):
        assert PreparedCorpus(prepared.folder / name, kept.fingerprint).num_documents > 0
        for other in others:
            with pytest.raises(UserError, match=r"another tokenizer.*run `bertwright prepare` again") as caught:
                PreparedCorpus(prepared.folder / name, other.fingerprint)
            for part in (str(prepared.folder / name), kept.fingerprint, other.fingerprint):
                assert part in str(caught.value)


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
def test_an_exception_half_way_leaves_nothing_and_keeps_what_was_there(
    vocabulary: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    recipe = _some(tmp_path, _stories(12)).recipe(vocabulary)
    out = tmp_path / "runs"
    seen = []

    def stop(doing: str, characters: int, documents: int) -> None:
        seen.append([path.name for path in out.iterdir()])
        raise error

    with pytest.raises(error):
        prepare_corpus(recipe, out / "prepare", "in", stop)
    assert len(seen[0]) == 1  # something was being written
    assert list(out.iterdir()) == []
    (out / "prepare").mkdir()
    (out / "prepare" / "earlier").write_text("kept")
    with pytest.raises(error):
        prepare_corpus(recipe, out / "prepare", "in", stop)
    assert [path.relative_to(out).as_posix() for path in sorted(out.rglob("*"))] == ["prepare", "prepare/earlier"]
    prepare_corpus(recipe, out / "prepare", "in")
    assert [path.name for path in out.iterdir()] == ["prepare"]
    assert not (out / "prepare" / "earlier").exists()


def _bad_row(folder: Path) -> Corpora:
    corpora = _some(folder, _stories(12))
    with Path(corpora.data["stories"].path).open("a") as stream:
        stream.write('{"text": "cut off\n')
    return corpora


REFUSALS: dict[str, tuple[Callable[[Path], Corpora], dict[str, Any], str]] = {
    "a bad row": (_bad_row, {}, r"stories\.jsonl, line 13 is not valid JSON"),
    "one sentence": (
        lambda folder: _some(folder, ["The river was."]),
        {},
        r"the corpora \(stories\) hold a single sentence; pre-training needs at least two documents.*: add text",
    ),
    "blank documents": (lambda folder: _some(folder, ["", " ", "\n"]), {}, r"the corpora \(stories\) hold no text"),
    "a corpus that is not there": (
        lambda folder: Corpora(folder, {"stories": Source(path=str(folder / "absent.jsonl"))}),
        {},
        r"absent\.jsonl does not exist",
    ),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_corpus_that_will_not_do_is_refused_and_nothing_is_written(
    vocabulary: Path, tmp_path: Path, fault: str
) -> None:
    make, options, pattern = REFUSALS[fault]
    with pytest.raises(UserError) as caught:
        _prepare(make(tmp_path), tmp_path / "out" / "prepare", vocabulary, **options)
    assert re.search(pattern, str(caught.value))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_tokenizer_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer at .*absent\.txt"):
        _prepare(_some(tmp_path, _stories(12)), tmp_path / "out" / "prepare", tmp_path / "absent.txt")
    assert list((tmp_path / "out").iterdir()) == []


PROGRAM = """
import multiprocessing, sys, time
from pathlib import Path
from bertwright.recipe import FinetuneConfig, Phase, PrepareConfig, PretrainConfig, Recipe, TokenizerConfig
from bertwright.text.prepare import prepare_corpus

def wait(doing, characters, documents):
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    data, vocabulary, folder = sys.argv[1:]
    recipe = Recipe(
        name="test", data={"stories": data}, tokenizer=TokenizerConfig(path=vocabulary),
        prepare=PrepareConfig(corpora=("stories",), heldout_ratio=0.1, workers=2),
        pretrain=PretrainConfig(max_steps=1), finetune=FinetuneConfig(data="stories"),
    )
    prepare_corpus(recipe, Path(folder), "in", wait)
"""


UNGUARDED = """
import sys
from pathlib import Path
from bertwright.recipe import PrepareConfig, PretrainConfig, Recipe, TokenizerConfig
from bertwright.text.prepare import prepare_corpus

print("begin")
data, vocabulary, folder = sys.argv[1:]
recipe = Recipe(
    name="test", data={"stories": data}, tokenizer=TokenizerConfig(path=vocabulary),
    prepare=PrepareConfig(corpora=("stories",), workers=2), pretrain=PretrainConfig(max_steps=1),
)
print(prepare_corpus(recipe, Path(folder), "in")["train"]["documents"])
"""


@pytest.mark.slow
def test_a_script_may_prepare_a_corpus_at_its_top_level(vocabulary: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED)
    arguments = [_some(tmp_path, _stories(12)).data["stories"].path, str(vocabulary), str(tmp_path / "out")]
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "begin\n11\n", "")


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Killed:
    corpora: Corpora
    out: Path
    left: list[str]
    orphans: list[int]
    workers: list[int]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Killed:
    """A real process, killed without notice while its worker lives and its files are open."""
    folder = tmp_path_factory.mktemp("killed")
    corpora = _some(folder, _stories(12))
    program = folder / "program.py"
    program.write_text(PROGRAM)
    out = folder / "runs"
    arguments = [corpora.data["stories"].path, str(vocabulary), str(out / "prepare")]
    with subprocess.Popen([sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        left = [path.name for path in out.iterdir()]
        process.kill()
    for _ in range(100):
        orphans = [worker for worker in workers if _is_running(worker)]
        if not orphans:
            break
        time.sleep(0.1)
    for orphan in orphans:
        os.kill(orphan, signal.SIGKILL)
    return Killed(corpora, out, left, orphans, workers)


@pytest.mark.slow
def test_a_kill_leaves_no_prepared_folder_and_the_next_run_is_whole_and_cleans_up(
    killed: Killed, vocabulary: Path
) -> None:
    assert len(killed.left) == 1  # something was being written
    assert not (killed.out / "prepare").exists()
    made = _prepare(killed.corpora, killed.out / "prepare", vocabulary)
    whole = _prepare(killed.corpora, killed.out.parent / "whole", vocabulary)
    for name in ("train.arrow", "heldout.arrow", "manifest.json"):
        assert (made.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert [path.name for path in killed.out.iterdir()] == ["prepare"]


def test_a_kill_leaves_no_worker_behind(killed: Killed) -> None:
    assert killed.workers
    assert not killed.orphans


@pytest.mark.slow
def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(vocabulary: Path, tmp_path: Path) -> None:
    # In a container, the process that is started again has the number of the one that was killed.
    corpora = _some(tmp_path, _stories(12))
    with pytest.raises(Stopped), atomic_path(tmp_path / "prepare") as temporary:
        raise Stopped
    temporary.mkdir()
    (temporary / "train.arrow").write_bytes(b"half")
    assert _prepare(corpora, tmp_path / "prepare", vocabulary).report["train"]["documents"] == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepare", "stories.jsonl"]


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_the_store_gives_back_documents_sentences_and_spans(prepared: Prepared, part: str) -> None:
    fingerprint = Tokenizer.load(prepared.folder / "tokenizer").fingerprint
    store = PreparedCorpus(prepared.folder / f"{part}.arrow", fingerprint)
    _check_store(store, _rows(prepared.folder / f"{part}.arrow"))


def _check_store(store: PreparedCorpus, rows: list[tuple[str, list[int], list[int]]]) -> None:
    assert store.num_documents == len(rows) > 1
    assert store.num_tokens == sum(len(tokens) for _, tokens, _ in rows)
    assert [store.source_names[code] for code in store.document_sources] == [source for source, _, _ in rows]
    assert store.sentence_lengths.tolist() == [length for _, _, lengths in rows for length in lengths]
    starts, sizes, wanted = [], [], []
    position = sentences = 0
    for index, (_, tokens, lengths) in enumerate(rows):
        assert store.document_offsets[index : index + 2].tolist() == [sentences, sentences + len(lengths)]
        for start, size in ((0, len(tokens)), (len(tokens) - 1, 1), (len(tokens) // 2, len(tokens) // 3)):
            starts.append(position + start)
            sizes.append(size)
            wanted.append(tokens[start : start + size])
        position += len(tokens)
        sentences += len(lengths)
    spans = store.spans(np.array(starts, np.int64), np.array(sizes, np.int64))
    assert [span.tolist() for span in spans] == wanted


@pytest.mark.parametrize(("vocab_size", "kind"), [(2**16, np.uint16), (2**16 + 1, np.int32)])
def test_a_store_of_several_chunks_gives_back_every_id_of_a_vocabulary(
    tmp_path: Path, vocab_size: int, kind: type[np.generic]
) -> None:
    draw = np.random.default_rng(7)
    rows = []
    with CorpusWriter(tmp_path / "train.arrow", vocab_size, "abc") as writer:
        for number in range(5):
            counts = draw.integers(1, 5, 3)
            lengths = draw.integers(1, 300_000, counts.sum())
            tokens = draw.integers(0, vocab_size, lengths.sum())
            tokens[-1] = vocab_size - 1
            documents = TokenizedDocuments(tokens.astype(kind), lengths.astype(np.int32), counts.astype(np.int32))
            writer.write(f"source{number}", documents)
            ends = np.cumsum(lengths)
            for first, last in zip(np.cumsum(counts) - counts, np.cumsum(counts), strict=True):
                own = tokens[ends[first] - lengths[first] : ends[last - 1]]
                rows.append((f"source{number}", own, lengths[first:last].tolist()))
    size = sum(len(tokens) for _, tokens, _ in rows)
    assert (writer.documents, writer.tokens) == (15, size)
    (tmp_path / "manifest.json").write_text('{"fingerprint": "f"}')
    with pa.memory_map(str(tmp_path / "train.arrow")) as stream:
        assert pa.ipc.open_file(stream).num_record_batches > 1
    store = PreparedCorpus(tmp_path / "train.arrow", "abc")
    assert [store.source_names[code] for code in store.document_sources] == [source for source, _, _ in rows]
    assert store.sentence_lengths.tolist() == [length for _, _, lengths in rows for length in lengths]
    assert np.diff(store.document_offsets).tolist() == [len(lengths) for _, _, lengths in rows]
    sizes = np.array([len(tokens) for _, tokens, _ in rows])
    starts = np.cumsum(sizes) - sizes
    for offset, length in ((0, sizes), (sizes // 2, sizes - sizes // 2)):
        for span, (_, tokens, _), begin in zip(
            store.spans(starts + offset, length), rows, np.broadcast_to(offset, sizes.shape), strict=True
        ):
            assert span.dtype == kind
            assert np.array_equal(span, tokens[begin:])


def _copy(prepared: Prepared, folder: Path) -> Path:
    for name in ("train.arrow", "manifest.json"):
        (folder / name).write_bytes((prepared.folder / name).read_bytes())
    return folder / "train.arrow"


def _cut_to(fraction: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * fraction))


def _zero_first_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(len(content) // 2 - 8) + content[len(content) // 2 :])


def _plain_arrow(path: Path) -> None:
    table = pa.table({"text": ["a", "b"]})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one byte short": (
        lambda path: os.truncate(path, path.stat().st_size - 1),
        r"train\.arrow is not a whole Arrow file",
    ),
    "half of it": (_cut_to(0.5), r"train\.arrow is not a whole Arrow file"),
    "a tenth of it": (_cut_to(0.1), r"train\.arrow is not a whole Arrow file"),
    "its first bytes": (lambda path: os.truncate(path, 8), r"train\.arrow is not a whole Arrow file"),
    "an empty file": (_cut_to(0), r"train\.arrow is not a whole Arrow file"),
    "a text": (lambda path: path.write_text("token ids " * 99), r"train\.arrow is not a whole Arrow file"),
    "zeros where a disk lost a block": (_zero_first_half, r"train\.arrow is not a whole Arrow file"),
    "some other Arrow file": (_plain_arrow, r"train\.arrow"),
    "no file": (lambda path: path.unlink(), r"no prepared corpus at .*train\.arrow; run `bertwright prepare`"),
    "no manifest": (lambda path: path.with_name("manifest.json").unlink(), r"manifest\.json"),
    "a broken manifest": (lambda path: path.with_name("manifest.json").write_text('{"finger'), r"manifest\.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_store_is_refused_in_one_sentence_that_says_what_to_do(
    prepared: Prepared, tmp_path: Path, fault: str
) -> None:
    break_it, pattern = FAULTS[fault]
    path = _copy(prepared, tmp_path)
    fingerprint = Tokenizer.load(prepared.folder / "tokenizer").fingerprint
    assert PreparedCorpus(path, fingerprint).num_documents > 0
    break_it(path)
    with pytest.raises(UserError) as caught:
        PreparedCorpus(path, fingerprint)
    assert re.search(pattern, str(caught.value))
    assert "run `bertwright prepare`" in str(caught.value)
    assert "\n" not in str(caught.value)
