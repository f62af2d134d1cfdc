"""The part of the training data that chooses the checkpoint, where the data have no validation split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.text.holdout import digest, divide
from bertwright.text.records import Record
from bertwright.train.loop import Notice

_LONGEST_RUN = 250
"""Rows of a class that stand side by side in the validation set: many more than there are reviews of one film."""


def cut_validation(
    records: Sequence[Record], strata: Ints, ratio: float, where: str, notice: Notice
) -> tuple[Ints, Ints]:
    """Indices of training and validation set, the same for every seed, with about the same fraction of each class.

    Rows of one group stay together; where rows have no groups, equal texts do: a copy of a training text would reward a
    model for what it has memorized.

    Args:
        records: of the training data.
        strata: the class of each, (records,); the same number for all where labels are no classes.
        ratio: the fraction of the validation set.
        where: the data are, for a message.
        notice: told what cannot be kept apart, and how many copies there are.

    Raises:
        UserError: if there is one text of each class.
    """
    training, validation = split_validation(strata, ratio)
    if len(validation) == 0:
        raise UserError(f"{where} has one text of each class to train on; a class needs two or more")
    groups = [record.group for record in records if record.group is not None]
    if len(groups) == len(records):
        if (whole := split_groups(strata, groups, ratio)) is not None:
            return whole
        notice(
            f"{where}: its groups cannot be divided into training and validation set, which therefore share groups; "
            "give the data a validation split"
        )
        return training, validation
    contents = [digest("\n".join([one.text, one.text_pair or "", *(one.choices or ())])).hex() for one in records]

    def apart(rows: Ints) -> Ints:
        known = {contents[row] for row in np.setdiff1d(np.arange(len(records)), rows).tolist()}
        return np.array([row for row in rows.tolist() if contents[row] not in known], np.int64)

    kept = apart(validation)
    if len(kept) == len(validation):
        return training, validation
    due, left = (np.bincount(strata[rows], minlength=strata.max() + 1) for rows in (validation, kept))
    poor = np.flatnonzero(np.isin(strata, np.flatnonzero(2 * left < due)))  # the rows of classes with many copies
    if len(poor) and (whole := split_groups(strata[poor], [contents[row] for row in poor.tolist()], ratio)) is not None:
        kept = apart(np.sort(np.concatenate([np.setdiff1d(kept, poor), poor[whole[1]]])))
    if not len(kept):
        notice(f"{where}: all {len(validation):,} texts of the validation set are copies of training texts")
        return training, validation
    notice(f"{where}: equal texts are all in the training or all in the validation set, which has {len(kept):,} texts")
    return np.setdiff1d(np.arange(len(records)), kept), kept


def split_validation(strata: Ints, ratio: float) -> tuple[Ints, Ints]:
    """Indices of training and validation set, the same for every seed, with the same fraction of each class.

    A class of a single text has none in the validation set.

    The validation set is made of runs of neighbours. Rows of a file that stand side by side often belong together, as
    the reviews of one film do in IMDB, and its test split is about other films: a validation set that is drawn row by
    row has a film's other reviews in training, and rewards a model for learning names.

    Args:
        strata: the class of each text, (texts,).
        ratio: the fraction of the validation set.
    """
    parts = []
    for label in np.unique(strata):
        rng = np.random.default_rng(0)  # the same places for each class, so that mixed classes keep their neighbours
        rows = np.flatnonzero(strata == label)
        wanted = min(max(1, round(ratio * len(rows))), len(rows) - 1)
        size = min(_LONGEST_RUN, max(1, wanted // 5))
        runs = [rows[start : start + size] for start in range(0, len(rows), size)]
        parts.append(np.concatenate([runs[i] for i in rng.permutation(len(runs))])[:wanted])
    validation = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(strata)), validation), validation


def split_groups(strata: Ints, groups: Sequence[str], ratio: float) -> tuple[Ints, Ints] | None:
    """As `split_validation`, in whole groups; None where they cannot be divided.

    The only group of a class is trained on.

    Args:
        strata: the class of each text, (texts,).
        groups: the group of each.
        ratio: the fraction of the validation set.
    """
    numbers = np.unique(np.array(groups), return_inverse=True)[1]
    rows = np.arange(len(strata))
    while len(rows):
        spread = [np.unique(numbers[rows[strata[rows] == label]]) for label in np.unique(strata[rows])]
        alone = [own[0] for own in spread if len(own) == 1]
        if not alone:
            break
        rows = rows[~np.isin(numbers[rows], alone)]  # of other classes one group may now be left
    if not len(rows):
        return None
    try:
        held = divide(strata[rows].tolist(), [groups[row] for row in rows.tolist()], ratio, "")
    except UserError:  # groups too large to be divided
        return None
    validation = rows[np.array(held)]
    return np.setdiff1d(np.arange(len(strata)), validation), validation
