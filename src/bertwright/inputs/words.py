"""Words as a model reads them: each divided into word pieces, and long texts in windows of whole words that overlap.

A word's prediction is that of its first word piece (paper, section 5.3). Where windows overlap, a word is predicted in
the one in which it has the most context on its narrower side, so that every word is predicted exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

import numpy as np

from bertwright.arrays import Ints
from bertwright.inputs.sequences import AT_ONCE, Sequence, frame
from bertwright.text.wordpiece import Tokenizer

OVERLAP = 4
"""Windows overlap by about the fourth part of their tokens: context for the words at their ends."""


def encode_words(tokenizer: Tokenizer, texts: Many[Many[str]]) -> list[Sequence]:
    """Words as `[CLS] word pieces [SEP]` with the word of each piece, one sequence a text, not cut.

    A word of which the tokenizer leaves nothing, as of a lone variation selector, is one unknown token.

    Args:
        tokenizer: the model's.
        texts: the words of each text; for a tokenizer of bytes each with the space before it, if there is one.
    """
    built = []
    for start in range(0, len(texts), AT_ONCE):
        cleaned = [[tokenizer.clean(word) for word in words] for words in texts[start : start + AT_ONCE]]
        encodings = tokenizer.encoder.encode_batch(cleaned, is_pretokenized=True, add_special_tokens=False)
        built += [_framed(tokenizer, encoding, len(words)) for encoding, words in zip(encodings, cleaned, strict=True)]
    return built


def _framed(tokenizer: Tokenizer, encoding: Any, words: int) -> Sequence:
    ids, numbers = np.array(encoding.ids, np.int32), np.array(encoding.word_ids, np.int64)
    missing = np.setdiff1d(np.arange(words), numbers)
    if len(missing):
        order = np.argsort(np.concatenate([numbers, missing]), kind="stable")
        numbers = np.concatenate([numbers, missing])[order]
        ids = np.concatenate([ids, np.full(len(missing), tokenizer.unk_id, np.int32)])[order]
    framed = frame(tokenizer, ids)
    word_ids = np.full(len(framed), -1, np.int64)
    word_ids[1:-1] = numbers
    return replace(framed, word_ids=word_ids)


def windows(sequence: Sequence, max_length: int) -> list[Sequence]:
    """A framed text in windows of whole words, each framed alike, that overlap.

    Of a word that is longer than a window, the first word pieces are read.

    Args:
        sequence: from `encode_words`.
        max_length: the most tokens of a window, [CLS] and [SEP] included.
    """
    if len(sequence) <= max_length:
        return [sequence]
    capacity = max_length - 2
    begins, _ = _first_pieces(sequence)
    counts = np.minimum(np.diff(begins, append=len(sequence) - 1), capacity)
    ends = np.concatenate([[0], np.cumsum(counts)])  # pieces before each word, if none is too long
    parts = []
    first = 0
    while True:
        last = int(np.searchsorted(ends, ends[first] + capacity, side="right")) - 1
        pieces = [np.arange(begins[word], begins[word] + counts[word]) for word in range(first, last)]
        parts.append(sequence.take(np.concatenate([[0], *pieces, [len(sequence) - 1]])))
        if last == len(counts):
            return parts
        # The next word must fit, however long it is.
        begin = max(ends[last] - capacity // OVERLAP, ends[last + 1] - capacity)
        first = max(first + 1, int(np.searchsorted(ends, begin, side="left")))


def _first_pieces(sequence: Sequence) -> tuple[Ints, Ints]:
    """Where the first piece of each word stands in a sequence, and the words' numbers, int64 (words,) both."""
    numbers = sequence.word_ids
    assert numbers is not None, "a sequence from encode_words"
    places = np.flatnonzero((numbers >= 0) & (numbers != np.concatenate([[-1], numbers[:-1]])))
    return places, numbers[places]


def predicted_words(parts: Many[Sequence]) -> list[tuple[Ints, Ints]]:
    """Which words each window of a text predicts: the place of the first piece, and the word's number, (words,) both.

    Over all windows of a text each word is there once.

    Args:
        parts: all windows of a text.
    """
    found = [_first_pieces(part) for part in parts]
    if len(parts) == 1:
        return found
    window = np.repeat(np.arange(len(parts)), [len(places) for places, _ in found])
    places, words = (np.concatenate(one) for one in zip(*found, strict=True))
    lengths = np.array([len(part) for part in parts])
    context = np.minimum(places - 1, lengths[window] - 2 - places)
    order = np.lexsort((window, -context, words))
    chosen = np.sort(order[np.unique(words[order], return_index=True)[1]])
    return [(places[own], words[own]) for own in (chosen[window[chosen] == part] for part in range(len(parts)))]
