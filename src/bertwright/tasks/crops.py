"""Two parts of one text as a pair: crops drawn at random to train on, and halves to evaluate on."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Self

import numpy as np

from bertwright.arrays import Floats, Ints
from bertwright.inputs.sequences import Sequence, build_many
from bertwright.tasks.examples import Examples
from bertwright.text.wordpiece import Tokenizer

SHORTEST_RATIO, LONGEST_RATIO = 0.1, 0.5
"""How long a crop is at least and at most, as a fraction of its text."""

SHORTEST = 8
"""Tokens of a crop at least, if its text has as many."""


@dataclass(frozen=True)
class Known(Sequence):
    """A text as the model reads it, and as it was given: other texts may have the same tokens.

    Args:
        text: as it was given.
    """

    text: str = ""

    @classmethod
    def of(cls, sequence: Sequence, text: str) -> Self:
        """A framed text without offsets."""
        return cls(sequence.input_ids, sequence.token_type_ids, sequence.special_tokens_mask, text=text)


@dataclass(frozen=True)
class TextsOfRecord:
    """The texts of a record, each a sequence of its own.

    Args:
        parts: the text, its second one, and perhaps a negative; or the halves of a single text.
        whole: a single text, not cut; None of a pair.
    """

    parts: list[Known]
    whole: Sequence | None = None

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def is_empty(self) -> bool:
        """Whether a text has no token."""
        return any(part.is_empty for part in self.parts)


def known_texts(texts: Many[str], tokenizer: Tokenizer, max_length: int | None) -> list[Known]:
    """Each text by itself, its head where it is too long."""
    found = build_many(tokenizer, texts, max_length=max_length, truncation="head")
    return [Known.of(one, text) for one, text in zip(found, texts, strict=True)]


def numbered(parts: Many[Many[Sequence]], labels: Ints) -> Floats:
    """The targets of the head for vectors, float32 (sequences, 3).

    Args:
        parts: the sequences of each example.
        labels: (examples,).

    Returns:
        A row for each sequence: 1 for an example's first one, a number that is the same for equal ones, and the label.
    """
    numbers: dict[bytes, int] = {}
    found = [
        [place == 0, numbers.setdefault(part.input_ids.tobytes(), len(numbers)), label]
        for own, label in zip(parts, labels, strict=True)
        for place, part in enumerate(own)
    ]
    return np.array(found, np.float32)


def halves(text: str) -> tuple[str, str]:
    """A text cut at the middle of its words, or of its letters where it is one word; one letter is both halves."""
    words = text.split()
    if len(words) > 1:
        return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
    middle = len(text) // 2
    return (text[:middle], text[middle:]) if middle and text[:middle].strip() else (text, text)


@dataclass(frozen=True)
class Crops(Examples):
    """Single texts, of which each batch draws two crops.

    Args:
        max_length: the most tokens of a crop, [CLS] and [SEP] included.
    """

    max_length: int = 512

    def drawn(self, rng: np.random.Generator) -> Examples:
        """Two crops of each text, one after the other; both have the number of their text."""
        crops = [crop(whole, self.max_length, rng) for whole in self.sequences for _ in range(2)]
        targets = np.repeat(np.asarray(self.targets), 2, axis=0)
        targets[1::2, 0] = 0  # an example begins with the first one
        return Examples(crops, targets, 2)


def crop(whole: Sequence, max_length: int, rng: np.random.Generator) -> Sequence:
    """A stretch of a framed text, framed alike: of random length, at a random place.

    Args:
        whole: `[CLS] text [SEP]`.
        max_length: the most tokens of the crop, [CLS] and [SEP] included.
        rng: draws.
    """
    tokens = len(whole) - 2
    ratio = rng.uniform(SHORTEST_RATIO, LONGEST_RATIO)
    length = min(max(round(ratio * tokens), min(SHORTEST, tokens)), max_length - 2)
    start = 1 + int(rng.integers(tokens - length + 1))
    return whole.take(np.concatenate([[0], np.arange(start, start + length), [len(whole) - 1]]))
