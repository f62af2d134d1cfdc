"""Entities of tags: which words each covers, and how many are right, as `seqeval` and the CoNLL script count them.

An entity is right if its first word, its last word and its type are. One begins at B-, or at I- that follows no word of
the same type, so that any predicted tags have entities. Everything is counted at once, over all words of all records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertwright.arrays import Ints
from bertwright.text.tags import CONTINUES, OUTSIDE, split_tags


@dataclass(frozen=True)
class Scheme:
    """What tags mean, by their numbers.

    Args:
        types: names of the types.
        type_of: the number of each tag's type, -1 outside of entities; int64 (tags,).
        inside: whether each tag continues an entity of its type; bool (tags,).
    """

    types: tuple[str, ...]
    type_of: Ints
    inside: npt.NDArray[np.bool_]


def scheme_of(names: Sequence[str]) -> Scheme:
    """The scheme of tags by name.

    A tag without a prefix is the class of one word; next to O, as some models of others have it, it continues an entity
    of its type ("IO").
    """
    of_name = split_tags(names)
    parts = [of_name[name] for name in names]
    inside = {*CONTINUES, *([""] if OUTSIDE in names else [])}
    types = tuple(dict.fromkeys(kind for _, kind in parts if kind))
    type_of = np.array([types.index(kind) if kind else -1 for _, kind in parts], np.int64)
    return Scheme(types, type_of, np.array([prefix in inside for prefix, _ in parts]))


def spans(tags: Ints, first: npt.NDArray[np.bool_], scheme: Scheme) -> tuple[Ints, Ints, Ints]:
    """The entities of records whose words stand in a row, in order.

    Args:
        tags: numbers of tags, (words,).
        first: whether a word is the first of its record, (words,).
        scheme: of the tags.

    Returns:
        First word, the word behind the last, and type of each entity, (entities,) each.
    """
    kinds = scheme.type_of[tags]
    before = np.concatenate([[-1], kinds[:-1]])
    begins = (kinds >= 0) & (first | ~scheme.inside[tags] | (before != kinds))
    stops = np.append(np.flatnonzero(begins | (kinds < 0)), len(tags))
    starts = np.flatnonzero(begins)
    return starts, stops[np.searchsorted(stops, starts, side="right")], kinds[starts]


def count(predicted: Ints, labels: Sequence[Ints], scheme: Scheme) -> Ints:
    """Right, predicted and true entities of each record and type, int64 (records, types, 3).

    Args:
        predicted: numbers of tags of all words, record after record.
        labels: the same of each record's true tags, (words,) each.
        scheme: of the tags.
    """
    lengths = np.array([len(row) for row in labels], np.int64)
    record = np.repeat(np.arange(len(labels)), lengths)
    first = np.diff(record, prepend=-1) > 0
    true = np.concatenate([*labels, np.zeros(0, np.int64)])
    size = max(1, len(scheme.types))
    found = np.zeros((len(labels), size, 3), np.int64)
    keys = []
    for column, tags in ((1, predicted), (2, true)):
        starts, ends, kinds = spans(tags, first, scheme)
        np.add.at(found[..., column], (record[starts], kinds), 1)
        keys.append((starts * (len(tags) + 1) + ends) * size + kinds)
    right = np.intersect1d(keys[0], keys[1], assume_unique=True)
    np.add.at(found[..., 0], (record[right // size // (len(true) + 1)], right % size), 1)
    return found


def ratios(right: Any, predicted: Any, true: Any) -> tuple[Any, Any, Any]:
    """Precision, recall and F1 from counts, float64; 0 where a denominator is."""

    def ratio(part: Any, whole: Any) -> Any:
        part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
        return np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0)

    return ratio(right, predicted), ratio(right, true), ratio(2 * np.asarray(right), np.asarray(predicted) + true)
