"""Two parts of one text as a pair: crops drawn at random to train on, and halves to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from bertwright.inputs.sequences import Sequence
from bertwright.tasks.examples import Examples

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
