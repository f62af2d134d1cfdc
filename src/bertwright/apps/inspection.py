"""What stands in a table: which columns hold text, labels and groups, and what the texts are like.

`bertwright init` asks this of a file that it has never seen. All that it says is counted, over the first
`LOOKED_AT` rows, classes over all rows; nothing is trained, and torch is not loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from bertwright.errors import UserError
from bertwright.text import schema
from bertwright.text.holdout import exact_digest
from bertwright.text.labels import as_label
from bertwright.text.tables import Row, Table, cell
from bertwright.text.wordpiece import MOST_UNKNOWN, Tokenizer

LOOKED_AT = 100_000
"""Rows that are looked at; of later ones only columns that may hold classes."""

MOST_CLASSES = 1_000
_MEASURED = 2_000
"""Texts whose tokens are counted."""

_KNOWN_WORDS = 0.6
"""Fraction of the words that are one token each, from which on the bundled vocabulary knows a language.

Of English reviews, questions and news it knows 0.75 to 0.95, of German 0.26.
"""

LABEL_NAMES = "label labels class category target topic intent sentiment y queue type rating stars tag".split()
_GROUP_NAME = re.compile(
    r"(?:.*[_ -])?(?:id|user|author|customer|client|account|film|movie|product|patient|group|thread|session"
    r"|conversation|document|article|company|speaker)s?(?:[_ -]?(?:id|name|no|number))?|.*Id",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^\W\d_]+")
_WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"}
"""Scripts that put no spaces between words."""


@dataclass
class Column:
    """What one column holds.

    Args:
        name: of the column.
        filled: rows with a value.
        characters: of all values.
        words: of all values, as spaces divide them; in scripts without spaces every other character counts as one.
        numbers: values that are numbers.
        fractions: of those the ones that are not whole.
        lists: values that are lists or objects, as JSON writes them.
        counts: how often each value occurs, as a label has it in training; only of the first values that differ, up to
            `MOST_CLASSES` + 1.
        repeated: rows whose value an earlier row has.
    """

    name: str
    filled: int = 0
    characters: int = 0
    words: int = 0
    numbers: int = 0
    fractions: int = 0
    lists: int = 0
    repeated: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)

    def add(self, given: Any, classes: Sequence[str] | None) -> None:
        """Take in the value of one more row.

        Args:
            given: as it was read.
            classes: their names in the data's schema, if it has them.
        """
        value = _written(given, classes)
        if not value:
            return
        self.filled += 1
        self.characters += len(value)
        self.words += _words(value)
        if _NUMBER.fullmatch(value):
            self.numbers += 1
            self.fractions += not float(value).is_integer()
        self.lists += value[0] + value[-1] in ("[]", "{}")
        digest = exact_digest(value)
        self.repeated += digest in self._seen
        self._seen.add(digest)
        if value in self.counts or len(self.counts) <= MOST_CLASSES:
            self.counts[value] += 1

    @property
    def distinct(self) -> int:
        """How many values differ."""
        return len(self._seen)

    @property
    def holds_lists(self) -> bool:
        """Whether most values are lists or objects, such as tokens, answers, or several labels."""
        return 2 * self.lists > self.filled

    @property
    def is_text(self) -> bool:
        """Whether it holds sentences: three words or more at the mean, mostly different ones, no numbers."""
        few = self.distinct <= 2 or (self.filled > 20 and self.distinct < 0.1 * self.filled)
        return (
            self.filled > 0 and self.words >= 3 * self.filled and self.numbers == 0 and not few and not self.holds_lists
        )

    @property
    def is_label(self) -> bool:
        """Whether it holds classes: 2 values or more, each short, most of them in several rows."""
        return (
            2 <= self.distinct <= min(MOST_CLASSES, max(2, self.filled // 3))
            and self.characters <= 60 * self.filled
            and self.fractions == 0
            and not self.holds_lists
        )

    @property
    def is_group(self) -> bool:
        """Whether its name and its values say which rows belong together."""
        return bool(_GROUP_NAME.fullmatch(self.name)) and self.distinct >= 3 and self.repeated >= 0.2 * self.filled


def _written(value: Any, classes: Sequence[str] | None) -> str:
    """A value as training has it where it is a label; a list or an object, which is none, as JSON."""
    try:
        return as_label(value, "", classes)[0] or ""
    except UserError:
        return cell(value).strip()


def _words(text: str) -> int:
    return max(len(text.split()), sum(_script(character) in _WITHOUT_SPACES for character in text[:200]) // 2)


@dataclass
class Contents:
    """What a table holds.

    Args:
        rows: how many were looked at.
        more: whether there are more.
        columns: by name.
        problems: rows that cannot be read, and the first of them with its reason.
    """

    rows: int
    more: bool
    columns: dict[str, Column]
    problems: int
    first_problem: Row | None


def inspect(tables: Sequence[Table], all_classes: bool = True) -> Contents:
    """Look at all columns of tables that belong together, such as the files of one split.

    Args:
        tables: the files.
        all_classes: whether columns that may hold classes are read to the end: rows may be sorted by class.

    Raises:
        UserError: if a file cannot be read.
    """
    columns: dict[str, Column] = {name: Column(name) for table in tables for name in table.columns}
    rows = problems = 0
    first: Row | None = None
    stream = _rows(tables)
    for row, names in islice(stream, LOOKED_AT):
        rows += 1
        if row.problem is not None:
            problems += 1
            first = first or row
            continue
        for (name, classes), value in zip(names, row.values, strict=True):
            columns[name].add(value, classes)
    more = False
    candidates = {name for name, column in columns.items() if column.distinct <= MOST_CLASSES}
    for row, names in stream:
        more = True
        if not (all_classes and candidates):
            break
        if row.problem is not None:
            continue
        for (name, classes), value in zip(names, row.values, strict=True):
            if name in candidates:
                columns[name].add(value, classes)
                if columns[name].distinct > MOST_CLASSES:
                    candidates.remove(name)
    return Contents(rows, more, columns, problems, first)


def _rows(tables: Sequence[Table]) -> Iterator[tuple[Row, list[tuple[str, list[str] | None]]]]:
    """The rows of tables, each with the columns of its table, of which the data's schema may name the classes."""
    for table in tables:
        names = [(name, schema.class_names(table.path, name)) for name in table.columns]
        for row in table.rows():
            yield row, names


@dataclass(frozen=True)
class Texts:
    """What the texts of a column are like.

    Args:
        rows: with and without text.
        empty: rows without text.
        first_empty: the place of the first of them.
        duplicates: texts that an earlier row has, too.
        total: characters of all texts.
        characters: the shortest, median and longest.
        tokens: the median, the 99th percentile and the largest number of tokens: of the bundled tokenizer, or of that
            of the encoder that the user names.
        scripts: fraction of the letters in each script, the commonest first.
        known: fraction of the words that are one token of the bundled vocabulary.
        sample: texts at even distances, whose tokens, scripts and words are counted.
        of_encoder: the encoder that the user names, and the fraction of the words that are one token of its vocabulary.
    """

    rows: int
    empty: int
    first_empty: int | None
    duplicates: int
    total: int
    characters: tuple[int, int, int]
    tokens: tuple[int, int, int]
    scripts: dict[str, float]
    known: float
    sample: Sequence[str] = ()
    of_encoder: tuple[str, float] | None = None

    @property
    def is_english(self) -> bool:
        """Whether the bundled encoder knows the language."""
        return self.scripts.get("LATIN", 0.0) > 0.9 and self.known >= _KNOWN_WORDS

    @property
    def language(self) -> str:
        """The language as far as it is known: English, or the name of the script."""
        if self.is_english:
            return "English"
        if not self.scripts:
            return "no letters"
        script = next(iter(self.scripts))
        name = {"CJK": "Chinese or Japanese", "LATIN": "Latin"}.get(script, script.capitalize())
        return f"{name} script" + (", not English" if script == "LATIN" else "")

    def counted_by(self, encoder: str, tokenizer: Tokenizer) -> Texts:
        """The same texts with the tokens and known words of an encoder that the user names.

        Args:
            encoder: its name.
            tokenizer: its own.

        Raises:
            UserError: if too many tokens are unknown to it.
        """
        tokens, known, unknown = _tokens(self.sample, tokenizer)
        if unknown > MOST_UNKNOWN:
            raise UserError(
                f"{unknown:.0%} of the tokens of these texts are unknown to the vocabulary of {encoder}; give an "
                "encoder of their language, or leave out --encoder"
            )
        return replace(self, tokens=tokens, of_encoder=(encoder, known))


def measure(texts: Iterable[tuple[str, int]]) -> Texts:
    """What texts are like; tokens, scripts and known words are those of texts at even distances.

    Args:
        texts: of each row its text, empty where it has none, and its line.
    """
    lengths: list[int] = []
    seen: set[bytes] = set()
    sample: list[str] = []
    rows = empty = duplicates = 0
    first_empty: int | None = None
    step = 1
    for text, number in texts:
        rows += 1
        stripped = text.strip()
        if not stripped:
            empty += 1
            first_empty = number if first_empty is None else first_empty
            continue
        digest = exact_digest(stripped)
        duplicates += digest in seen
        seen.add(digest)
        if len(lengths) % step == 0:
            sample.append(stripped)
        lengths.append(len(stripped))
        if len(sample) == 2 * _MEASURED:
            sample, step = sample[::2], 2 * step
    lengths.sort()
    characters = (lengths[0], lengths[len(lengths) // 2], lengths[-1]) if lengths else (0, 0, 0)
    bundled = Tokenizer.load(Path(__file__).parents[1] / "bundled" / "encoder")
    tokens, known, _ = _tokens(sample, bundled)
    return Texts(
        rows, empty, first_empty, duplicates, sum(lengths), characters, tokens, _scripts(sample), known, sample
    )


def _tokens(sample: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, int, int], float, float]:
    """How many tokens texts have, and the fractions of known words and of unknown tokens."""
    # Words of a script that the vocabulary lacks are one unknown token each; a vocabulary of their own has several.
    unknown = tokenizer.unk_id
    encoded = tokenizer.encode(sample)
    counts = sorted(
        len(ids) if (ids != unknown).mean() > 0.9 else max(len(ids), len(text) // 3)
        for text, ids in zip(sample, encoded, strict=True)
        if len(ids)
    )
    # In a vocabulary of bytes a word has the space before it.
    space = " " if tokenizer.is_bytes else ""
    words = [space + word for text in sample for word in _WORD.findall(text[:2_000])]
    known = sum(len(ids) == 1 and ids[0] != unknown for ids in tokenizer.encode(words)) / max(1, len(words))
    missing = sum(int((ids == unknown).sum()) for ids in encoded) / max(1, sum(map(len, encoded)))
    if not counts:
        return (0, 0, 0), known, missing
    middle, high = counts[len(counts) // 2], counts[min(len(counts) - 1, int(0.99 * len(counts)))]
    return (middle, high, counts[-1]), known, missing


def _scripts(sample: Sequence[str]) -> dict[str, float]:
    found = Counter(_script(character) for text in sample for character in text[:500] if character.isalpha())
    total = sum(found.values())
    return {script: count / total for script, count in found.most_common()}


@cache
def _script(character: str) -> str:
    """A letter's script: the first word of its name in Unicode, as in LATIN SMALL LETTER A."""
    return unicodedata.name(character, "UNKNOWN").partition(" ")[0].partition("-")[0]
