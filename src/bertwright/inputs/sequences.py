"""From text to one model input: the only place that frames `[CLS] a [SEP] b [SEP]`.

Truncation, windows, segments, character offsets and word numbers are made here, for pre-training, fine-tuning,
evaluation, inference, explanation and the server alike (paper, section 3, "Input/Output Representations").
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Bools, Ids, Ints
from bertwright.text.bert_tokenizer import MASK
from bertwright.text.wordpiece import MOST_UNKNOWN, Tokenizer

AT_ONCE = 1_000
"""Texts that are tokenized together: the library's own objects are large."""


@dataclass(frozen=True)
class Sequence:
    """One model input, not padded. The names are Hugging Face's.

    Args:
        input_ids: token ids, special ones included, int32 (tokens,).
        token_type_ids: segment of each token: 0 up to the first [SEP], 1 after it; int32 (tokens,).
        special_tokens_mask: True at the [CLS] and [SEP] of the frame, bool (tokens,).
        offsets: where each token begins and ends in its text as `Tokenizer.clean` leaves it, in characters, int64
            (tokens, 2); zeros at the frame. None where they were not asked for.
        word_ids: number of each token's word in its text, int64 (tokens,); -1 at the frame. None as above.
    """

    input_ids: Ids
    token_type_ids: Ids
    special_tokens_mask: Bools
    offsets: Ints | None = None
    word_ids: Ints | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_empty(self) -> bool:
        """Whether there is no token beside those of the frame."""
        return bool(self.special_tokens_mask.all())

    def take(self, places: Ints) -> Sequence:
        """The tokens at `places`, a window that is framed if these hold the frame's."""
        return Sequence(
            self.input_ids[places],
            self.token_type_ids[places],
            self.special_tokens_mask[places],
            None if self.offsets is None else self.offsets[places],
            None if self.word_ids is None else self.word_ids[places],
        )


class ModelInput(Protocol):
    """A record as a task encodes it: a `Sequence`, or what a task makes several sequences of."""

    def __len__(self) -> int:
        """Tokens."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens before they are framed; arrays as in `Sequence`."""

    ids: Ids
    offsets: Ints | None = None
    word_ids: Ints | None = None

    def take(self, places: Ints) -> _Tokens:
        """The tokens at `places`."""
        offsets = None if self.offsets is None else self.offsets[places]
        return _Tokens(self.ids[places], offsets, None if self.word_ids is None else self.word_ids[places])


def truncate(length: int, capacity: int, truncation: str) -> Ints:
    """The places of the tokens that are kept of a text, int64 (kept,).

    After Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1, where head and tail share
    the capacity as one to three.

    Args:
        length: tokens of the text.
        capacity: the most that are kept.
        truncation: head, tail or head-tail (half of each); windows keeps all.
    """
    if length <= capacity or truncation == "windows":
        return np.arange(length)
    head = {"head": capacity, "tail": 0, "head-tail": capacity // 2}[truncation]
    return np.concatenate([np.arange(head), np.arange(length - (capacity - head), length)])


def frame(tokenizer: Tokenizer, first: npt.NDArray[Any], second: npt.NDArray[Any] | None = None) -> Sequence:
    """Token ids (tokens,) of one or two texts as `[CLS] first [SEP]` or `[CLS] first [SEP] second [SEP]`."""
    return _frame(tokenizer, _Tokens(first), None if second is None else _Tokens(second))


def _frame(tokenizer: Tokenizer, first: _Tokens, second: _Tokens | None) -> Sequence:
    texts = (first,) if second is None else (first, second)
    a, more = len(first.ids) + 2, tokenizer.separators - 1
    size = a + (more + len(second.ids) + 1 if second is not None else 0)
    special = np.zeros(size, np.bool_)
    special[[0, a - 1, size - 1]] = True
    ids = np.full(size, tokenizer.sep_id, np.int32)
    ids[0] = tokenizer.cls_id
    ids[1 : a - 1] = first.ids
    segments = np.zeros(size, np.int32)
    if second is not None:
        special[a : a + more] = True
        ids[a + more : size - 1] = second.ids
        segments[a:] = 1
    offsets = words = None
    if first.offsets is not None and first.word_ids is not None:
        offsets, words = np.zeros((size, 2), np.int64), np.full(size, -1, np.int64)
        offsets[~special] = np.concatenate([text.offsets for text in texts if text.offsets is not None])
        words[~special] = np.concatenate([text.word_ids for text in texts if text.word_ids is not None])
    return Sequence(ids, segments, special, offsets, words)


def _cut_and_frame(
    tokenizer: Tokenizer,
    first: _Tokens,
    second: _Tokens | None,
    max_length: int | None,
    truncation: str,
    truncation_pair: str | None,
) -> Sequence:
    """The texts cut to `max_length`; a text of less than half of the capacity leaves the rest of it to the other."""
    if max_length is not None and second is None:
        first = first.take(truncate(len(first.ids), max_length - 2, truncation))
    elif max_length is not None and second is not None:
        capacity = max_length - 2 - tokenizer.separators
        own = max(capacity // 2, capacity - len(second.ids))
        first = first.take(truncate(len(first.ids), own, truncation))
        second = second.take(truncate(len(second.ids), capacity - len(first.ids), truncation_pair or truncation))
    return _frame(tokenizer, first, second)


def build(
    tokenizer: Tokenizer,
    text: str,
    text_pair: str | None = None,
    *,
    max_length: int | None,
    truncation: str = "head",
    truncation_pair: str | None = None,
) -> Sequence:
    """The model input of a text or a pair, with offsets and word numbers.

    Args:
        tokenizer: the model's.
        text: any text.
        text_pair: a second text.
        max_length: the most tokens, special ones included; None cuts nothing.
        truncation: which part of a longer text is kept, as in `truncate`.
        truncation_pair: the same of the second text; None is the same part.
    """
    first, second = (None if each is None else _with_offsets(tokenizer, each) for each in (text, text_pair))
    assert first is not None
    return _cut_and_frame(tokenizer, first, second, max_length, truncation, truncation_pair)


def _with_offsets(tokenizer: Tokenizer, text: str) -> _Tokens:
    encoding = tokenizer.encoder.encode(tokenizer.clean(text), add_special_tokens=False)
    last = max((word for word in encoding.word_ids if word is not None), default=-1)
    # A token that was added to the vocabulary belongs to no word of the library's: it is a word of its own.
    numbers = [last + 1 + place if word is None else word for place, word in enumerate(encoding.word_ids)]
    words, offsets = np.array(numbers, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)
    solid = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    if tokenizer.is_bytes and len(solid):  # a token that is a space alone is of the next word, or of the last one
        words = words[solid[np.searchsorted(solid, np.arange(len(words))).clip(max=len(solid) - 1)]]
    return _Tokens(np.array(encoding.ids, np.int32), offsets, words)


def build_cloze(tokenizer: Tokenizer, text: str) -> Sequence:
    """The model input of a text in which each `[MASK]` is a masked token; everywhere else the spelling is text.

    The vocabulary's own spelling, such as `<mask>`, serves as well.
    Where a tokenizer says so (lstrip), a masked token takes the place of the spaces before it, too.
    """
    texts = tokenizer.with_masks(tokenizer.clean(text)).split(MASK)
    if tokenizer.mask_takes_space:
        texts = [*(one.rstrip() for one in texts[:-1]), texts[-1]]
    parts = tokenizer.encode(texts)
    mask = np.array([tokenizer.mask_id], np.int32)
    joined = [piece for part in parts for piece in (mask, part)][1:]
    return frame(tokenizer, np.concatenate(joined))


def build_many(
    tokenizer: Tokenizer,
    texts: Many[str],
    text_pairs: Many[str | None] | None = None,
    *,
    max_length: int | None,
    truncation: str = "head",
) -> list[Sequence]:
    """The model inputs of many texts or pairs, without offsets, which is several times as fast as `build`.

    Args:
        tokenizer: the model's.
        texts: any texts.
        text_pairs: the second text of each, None where a text stands alone; None where all do.
        max_length: the most tokens, special ones included; None cuts nothing.
        truncation: which part of a longer text is kept, as in `truncate`; windows keeps all.
    """
    built = []
    for start in range(0, len(texts), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        first = _encoded(tokenizer, texts[part])
        second: Many[Ids | None] = [None] * len(first)
        if text_pairs is not None:
            encoded = _encoded(tokenizer, [text or "" for text in text_pairs[part]])
            second = [None if text is None else ids for text, ids in zip(text_pairs[part], encoded, strict=True)]
        for a, b in zip(first, second, strict=True):
            pair = None if b is None else _Tokens(b)
            built.append(_cut_and_frame(tokenizer, _Tokens(a), pair, max_length, truncation, None))
    return built


def _encoded(tokenizer: Tokenizer, texts: Many[str]) -> list[Ids]:
    """The token ids of each text; equal ones, such as the context of several choices, are tokenized once."""
    different = list(dict.fromkeys(texts))
    ids = tokenizer.encode([tokenizer.clean(text) for text in different])
    found = dict(zip(different, ids, strict=True))
    return [found[text] for text in texts]


def windows(sequence: Sequence, max_length: int) -> list[Sequence]:
    """A framed text in as few parts of about equal length as fit, each framed alike; a pair is not cut.

    After Sun et al. 2019, section 5.3.2.

    Args:
        sequence: `[CLS] text [SEP]`.
        max_length: the most tokens of a window, [CLS] and [SEP] included.
    """
    if len(sequence) <= max_length:
        return [sequence]
    edges = sequence.special_tokens_mask.nonzero()[0]
    assert len(edges) == 2, "a pair is cut to max_length when it is built"
    body = np.arange(1, len(sequence) - 1)
    cuts = np.array_split(body, -(-len(body) // (max_length - 2)))
    return [sequence.take(np.concatenate([edges[:1], part, edges[1:]])) for part in cuts]


def beginning(sequence: Sequence, max_length: int) -> Sequence:
    """The first tokens of a framed text, framed alike; all where it is not longer.

    Args:
        sequence: `[CLS] text [SEP]`.
        max_length: the most tokens, [CLS] and [SEP] included.
    """
    if len(sequence) <= max_length:
        return sequence
    return sequence.take(np.append(np.arange(max_length - 1), len(sequence) - 1))


_FEW_TOKENS = 50


def unknown_notice(parts: Iterable[Sequence], tokenizer: Tokenizer, where: str | Path) -> str | None:
    """What is said where a model reads little of some texts, since its vocabulary lacks their letters; else None.

    Args:
        parts: the texts, as the model reads them.
        tokenizer: the model's.
        where: the model's folder.
    """
    unknown = total = 0
    for part in parts:
        real = ~part.special_tokens_mask
        unknown += int(np.count_nonzero(real & (part.input_ids == tokenizer.unk_id)))
        total += int(np.count_nonzero(real))
    # A few words with an emoji among them are no other language.
    if unknown == 0 or unknown < (MOST_UNKNOWN * total if total >= _FEW_TOKENS else total):
        return None
    return (
        f"more than a fifth of the tokens are unknown to the vocabulary of {where}, which lacks the letters of these "
        "texts: what it says of them means little; choose a model of their language"
    )
