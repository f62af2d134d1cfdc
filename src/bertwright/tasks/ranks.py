"""How near the second text of each pair is to its first, among the second texts of all pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from bertwright.arrays import Floats
from bertwright.finetune_settings import FinetuneConfig
from bertwright.text.word_runs import word_pattern

_AT_ONCE = 1_024
"""Pairs that are compared with all candidates together."""
_ROUNDING = 1e-6
"""How far two float32 cosines of the same vectors may be apart that were not added up in the same order."""


def changes(config: FinetuneConfig) -> list[str]:
    """What has changed in how texts are compared, so that results from before it cannot stand beside today's.

    Args:
        config: of fine-tuning.
    """
    return ["equal first texts"] if config.task == "embedding" and not config.embedding.scores else []


def _identity(text: str) -> Hashable:
    """What is equal for texts that differ in case, spaces and punctuation alone."""
    return tuple(word_pattern().findall(text.casefold())) or text


def compared(first: Any, second: Any, texts: Sequence[Sequence[str]], temperature: float) -> Floats:
    """The cosine of each pair, the rank of its second text, and its cross-entropy among the candidates.

    Candidates are the distinct second texts, by their words, and so the same ones for every system. None of a pair are
    one that equals its first text, and the second texts of other pairs with that first text: they are right, too. A
    candidate that is as near as the pair's own counts as nearer, so that vectors that are all the same have no rank of
    use.

    Args:
        first: vectors of length 1 (or of zeros), (pairs, width), dense or sparse.
        second: as many.
        texts: both texts of each pair, as they were given: a system that cannot tell two apart has found neither.
        temperature: divides cosines before the softmax.

    Returns:
        float32 (pairs, 3); ranks are from 0.
    """
    from scipy.special import logsumexp  # a fifth of a second, which a prediction does not wait for

    known = [(_identity(one), _identity(other)) for one, other in texts]
    numbers: dict[Hashable, int] = {}
    rows: list[int] = []  # of each candidate the first pair that has it
    for row, (_, text) in enumerate(known):
        if text not in numbers:
            numbers[text] = len(rows)
            rows.append(row)
    candidates = second[rows]
    own = np.array([numbers[other] for _, other in known])
    also_right: dict[Hashable, list[int]] = {one: [numbers[one]] if one in numbers else [] for one, _ in known}
    for one, other in known:
        also_right[one].append(numbers[other])
    left_out = {one: np.unique(found) for one, found in also_right.items()}
    found = np.zeros((len(texts), 3), np.float32)
    for start in range(0, len(texts), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        cosines = first[part] @ candidates.T
        cosines = np.asarray(cosines.todense() if hasattr(cosines, "todense") else cosines, np.float64)
        places = np.arange(len(cosines))
        pairs = first[part].multiply(second[part]) if hasattr(first, "multiply") else first[part] * second[part]
        right = np.asarray(pairs.sum(axis=1), np.float64).ravel()  # the pair's own text, and not one of equal words
        for row, (one, _) in zip(cosines, known[part], strict=True):
            row[left_out[one]] = -np.inf
        cosines[places, own[part]] = right
        found[part, 0] = right
        found[part, 1] = (cosines >= right[:, None] - _ROUNDING).sum(axis=1) - 1
        found[part, 2] = logsumexp(cosines / temperature, axis=1) - right / temperature
    return found
