"""Questions on a context as a model reads them: `[CLS] question [SEP] context [SEP]`, a long context in windows.

The places of the context's tokens are those in the text that was given, to the character, so that an answer can be cut
out of it (paper, section 4.2).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bertwright.arrays import Bools, Ints
from bertwright.inputs.sequences import AT_ONCE, Sequence, frame
from bertwright.text.wordpiece import Tokenizer

LONGEST_QUESTION = 64
"""Tokens of a question that are read, as in BERT's own program for SQuAD; at most half of a window."""

OVERLAP = 128
"""Tokens of the context that two neighbouring windows share; at most half of a window."""


@dataclass(frozen=True)
class Question:
    """A question and its context.

    Args:
        sequence: both, framed, the context uncut; offsets are zeros but at the context's tokens.
        left_out: tokens of the question that are not read.
    """

    sequence: Sequence
    left_out: int

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def is_empty(self) -> bool:
        """Whether the question or the context has no token."""
        of_question = ~self.sequence.special_tokens_mask & (self.sequence.token_type_ids == 0)
        return not (of_question.any() and context_tokens(self.sequence).any())


def context_tokens(sequence: Sequence) -> Bools:
    """Which tokens of a window are the context's, bool (tokens,)."""
    inside: Bools = (sequence.token_type_ids == 1) & ~sequence.special_tokens_mask
    return inside


def encode_questions(
    tokenizer: Tokenizer, questions: Many[str], contexts: Many[str], max_length: int | None
) -> list[Question]:
    """Questions with their contexts, uncut.

    Args:
        tokenizer: the model's.
        questions: any texts.
        contexts: as many; equal ones are tokenized once.
        max_length: the most tokens of a window; None leaves a question as long as it may be.
    """
    longest = (
        LONGEST_QUESTION if max_length is None else min(LONGEST_QUESTION, (max_length - 2 - tokenizer.separators) // 2)
    )
    known: dict[str, tuple[Any, Ints]] = {}
    missing = list(dict.fromkeys(contexts))
    for start in range(0, len(missing), AT_ONCE):
        texts = missing[start : start + AT_ONCE]
        encodings = tokenizer.encoder.encode_batch([tokenizer.clean(one) for one in texts], add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            known[text] = np.array(encoding.ids, np.int32), _given_offsets(tokenizer, text, encoding.offsets)
    asked = tokenizer.encode([tokenizer.clean(question) for question in questions])
    found = []
    for own, context in zip(asked, contexts, strict=True):
        ids, offsets = known[context]
        framed = frame(tokenizer, own[:longest], ids)
        places = np.zeros((len(framed), 2), np.int64)
        places[context_tokens(framed)] = offsets
        found.append(Question(replace(framed, offsets=places), max(0, len(own) - longest)))
    return found


def _given_offsets(tokenizer: Tokenizer, text: str, offsets: Many[tuple[int, int]]) -> Ints:
    """Offsets in the cleaned text as those in the text that was given, int64 (tokens, 2)."""
    cleaned = np.array(offsets, np.int64).reshape(-1, 2)
    places = tokenizer.clean_offsets(text)
    if not len(cleaned):
        return cleaned
    cleaned = _to_ends_of_characters(tokenizer.clean(text), cleaned)
    begins = places[np.minimum(cleaned[:, 0], len(places) - 1), 0]
    ends = places[np.maximum(cleaned[:, 1] - 1, 0), 1]
    begins = np.where(cleaned[:, 0] < cleaned[:, 1], begins, ends)  # a token that is a space alone has no character
    return np.stack([begins, np.maximum(begins, ends)], axis=1)


def _to_ends_of_characters(text: str, offsets: Ints) -> Ints:
    """Offsets whose ends lie behind all that belongs to their last character, int64 (tokens, 2).

    Normalizers drop marks (of an accent, of an emoji's form) or make one character of several (é of e and its accent, a
    syllable of Hangul), and count none of these to a token: an answer that ends with them would be cut inside of its
    last character, and no longer be the one that was asked for.
    """
    begins, ends = offsets.T
    size = len(text)
    change = np.bincount(begins, minlength=size + 1) - np.bincount(ends, minlength=size + 1)
    bare = np.flatnonzero(np.cumsum(change)[:size] == 0)  # characters of no token
    stops = np.arange(size + 1)
    stops[[place for place in bare if _continues_a_character(text[place])]] = size
    stops = np.minimum.accumulate(stops[::-1])[::-1]  # from each place on, the first that continues no character
    return np.stack([begins, np.where(begins < ends, stops[ends], ends)], axis=1)


def _continues_a_character(character: str) -> bool:
    """Whether it belongs to the one before it: a mark, a part of a syllable of Hangul, a joiner, or a tag of a flag."""
    return (
        unicodedata.category(character)[0] == "M"
        or "\u1160" <= character <= "\u11ff"
        or character in "\u200c\u200d"
        or "\U000e0020" <= character <= "\U000e007f"
    )


def windows(question: Question, max_length: int) -> list[Sequence]:
    """The whole question with each part of the context: parts overlap, and together they are all of it.

    A token at the border of a window stands further inside of the next one.

    Args:
        question: from `encode_questions`, with this length.
        max_length: the most tokens of a window, [CLS] and both [SEP] included.
    """
    parts = context_parts(question, max_length)
    if len(parts) == 1:
        return [question.sequence]
    first, last = _context_of(question.sequence)
    return [
        question.sequence.take(np.concatenate([np.arange(first), np.arange(begin, end), [last]]))
        for begin, end in parts
    ]


def context_parts(question: Question, max_length: int) -> list[tuple[int, int]]:
    """Where the context of each window begins and ends in the uncut sequence, in tokens.

    Args:
        question: as for `windows`.
        max_length: as for `windows`.
    """
    first, last = _context_of(question.sequence)
    if len(question) <= max_length:
        return [(first, last)]
    capacity = max_length - first - 1
    step = capacity - min(OVERLAP, max_length // 2, capacity // 2)
    begins = range(first, last, step)
    number = next(number for number, begin in enumerate(begins) if begin + capacity >= last)
    return [(begin, min(begin + capacity, last)) for begin in begins[: number + 1]]


def _context_of(sequence: Sequence) -> tuple[int, int]:
    """Where the context begins in a framed pair, and the place after its last token."""
    edges = sequence.special_tokens_mask.nonzero()[0]
    return int(edges[-2]) + 1, int(edges[-1])


def answer_in_windows(question: Question, max_length: int, start: int, end: int) -> list[tuple[int, int] | None] | None:
    """The first and the last token of an answer in each window; None for a window that does not have all of it.

    Args:
        question: as for `windows`.
        max_length: as for `windows`.
        start: the answer's first character in the context.
        end: the place after its last character.

    Returns:
        None where no token holds a character of the answer.
    """
    sequence = question.sequence
    assert sequence.offsets is not None
    begins, ends = sequence.offsets.T
    own = np.flatnonzero(context_tokens(sequence) & (begins < end) & (ends > start))
    if not len(own):
        return None
    first, (low, high) = _context_of(sequence)[0], (int(own[0]), int(own[-1]))
    return [
        (first + low - begin, first + high - begin) if begin <= low and high < stop else None
        for begin, stop in context_parts(question, max_length)
    ]
