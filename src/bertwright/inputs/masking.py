"""Which tokens must be predicted, and what replaces them in the input (paper, section 3.1, task 1, appendix A.1).

A masked language model predicts some, which are masked in its input; a causal one predicts each from those before it.

Masks are drawn when a batch is built, never stored: every epoch masks other tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Bools, Ints
from bertwright.settings import MaskingConfig

IGNORED_LABEL = -100
"""The label of an item that is not scored, as in Hugging Face and `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a vocabulary.

    Args:
        mask_id: id of [MASK].
        ordinary_ids: ids that a random replacement may be, which leaves out special tokens, int32 (ordinary,).
        is_continuation: whether an entry continues a word (##...), bool (vocab_size,).
    """

    mask_id: int
    ordinary_ids: npt.NDArray[np.int32]
    is_continuation: Bools


def mask_tokens(
    input_ids: Ints,
    maskable: Bools,
    config: MaskingConfig,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
) -> tuple[Ints, Bools]:
    """Choose tokens and mask them.

    In every sequence round(rate * n) of its n maskable tokens are chosen, and at least one: a fixed ratio, as in the
    paper's code, and not a coin per token. With whole words, words are chosen until the next one would pass that
    number; the first is always taken.

    Args:
        input_ids: int64 (batch, seq).
        maskable: bool (batch, seq), False at special tokens and padding.
        config: rate, replacement and unit.
        vocabulary: what may replace a token, and which entries continue a word.
        rng: the source of chance; its state alone decides the outcome.

    Returns:
        The ids with chosen tokens replaced, int64 (batch, seq), and which tokens were chosen, bool (batch, seq).
    """
    chosen = _choose(input_ids, maskable, config, vocabulary, rng)
    # Drawn for all positions, chosen or not: the outcome of one row then does not depend on the rows before it.
    action = rng.random(input_ids.shape)
    random_ids = vocabulary.ordinary_ids[rng.integers(0, len(vocabulary.ordinary_ids), input_ids.shape)]
    masked = np.where(chosen, vocabulary.mask_id, input_ids)
    if config.replacement == "80-10-10":
        masked = np.where(chosen & (action >= 0.8), random_ids, masked)
        masked = np.where(chosen & (action >= 0.9), input_ids, masked)
    return masked, chosen


def mask_rest_of_words(input_ids: Ints, labels: Ints, vocabulary: Vocabulary) -> tuple[Ints, Ints]:
    """Mask the pieces of a word that follow one that must be predicted, too, without a prediction of their own.

    A piece is then predicted from the pieces before it and from the other words, and the losses of a word's pieces add
    up to that of the word, however many pieces it has (Kauf and Ivanova 2023, "A Better Way to Do Masked Language Model
    Scoring").

    Args:
        input_ids: with [MASK] at the tokens to predict, int64 (batch, seq).
        labels: these tokens, `IGNORED_LABEL` elsewhere, int64 (batch, seq).
        vocabulary: which entries continue a word.

    Returns:
        Ids and labels with the rest of these words masked, int64 (batch, seq).
    """
    chosen = labels != IGNORED_LABEL
    continues = vocabulary.is_continuation[np.where(chosen, labels, input_ids)]
    follows = np.zeros_like(chosen)
    for column in range(1, chosen.shape[1]):
        follows[:, column] = continues[:, column] & (chosen[:, column - 1] | follows[:, column - 1])
    return np.where(follows, vocabulary.mask_id, input_ids), np.where(follows, IGNORED_LABEL, labels)


def next_token_labels(input_ids: Ints, predicted: Bools) -> Ints:
    """Labels of a causal model: at each position the token after it (paper, section 5.1, "LTR").

    Every ordinary token is predicted once, the first one from [CLS]. [SEP] is not: it marks where a sequence was cut,
    not how language continues, and masking leaves it out, too.

    Args:
        input_ids: int64 (batch, seq).
        predicted: bool (batch, seq), True at the tokens to predict, False at special tokens and padding.

    Returns:
        int64 (batch, seq), `IGNORED_LABEL` at a position that predicts nothing, as the last one always does.
    """
    labels = np.full_like(input_ids, IGNORED_LABEL)
    labels[:, :-1] = np.where(predicted[:, 1:], input_ids[:, 1:], IGNORED_LABEL)
    return labels


def _choose(
    input_ids: Ints, maskable: Bools, config: MaskingConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> Bools:
    """The chosen tokens: each word (or token) gets a random key, and those with the smallest keys are taken."""
    batch, seq = input_ids.shape
    key = rng.random((batch, seq))
    if config.unit == "word":
        # A word starts at each maskable token that continues nothing; all of its tokens take the key of its start.
        after_gap = np.concatenate([np.ones((batch, 1), np.bool_), ~maskable[:, :-1]], axis=1)
        starts = maskable & (~vocabulary.is_continuation[input_ids] | after_gap)
        start_position = np.maximum.accumulate(np.where(starts, np.arange(seq), 0), axis=1)
        key = np.take_along_axis(key, start_position, axis=1)
    key = np.where(maskable, key, np.inf)
    order = np.argsort(key, axis=1, kind="stable")
    number = maskable.sum(1)
    quota = np.where(number > 0, np.maximum(np.rint(config.rate * number), 1), 0)[:, None]
    taken = np.arange(seq) < quota
    if config.unit == "word":
        sorted_key = np.take_along_axis(key, order, axis=1)
        ends_word = np.concatenate([sorted_key[:, 1:] != sorted_key[:, :-1], np.ones((batch, 1), np.bool_)], axis=1)
        # The last token at or before the quota where a word is complete; the first word is taken whatever its length.
        complete = np.where(ends_word & taken, np.arange(seq) + 1, 0).max(1, keepdims=True)
        first_word = ends_word.argmax(1)[:, None] + 1
        taken = np.arange(seq) < np.where(quota > 0, np.maximum(complete, first_word), 0)
    chosen = np.zeros((batch, seq), np.bool_)
    np.put_along_axis(chosen, order, taken, axis=1)
    return chosen & maskable
