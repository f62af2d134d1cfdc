"""A test split for labelled texts that have none: stratified by class, in whole groups, decided by content alone."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence

from bertwright.errors import UserError


def digest(text: str) -> bytes:
    """A hash that is the same for texts that differ in white space only: 16 bytes of BLAKE2b."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=16).digest()


def exact_digest(text: str) -> bytes:
    """A hash of a text to the letter, for counting copies: 8 bytes of BLAKE2b."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def divide(labels: Sequence[Hashable], groups: Sequence[str], ratio: float, where: str) -> list[bool]:
    """Which rows belong to the smaller part; the same rows in whatever order they come.

    Groups are taken in the order of their hashes, each if that brings the classes nearer to their due numbers of rows:
    round(ratio * rows of the class), and at least one row in either part. Where a group is a row, the numbers are
    exact.

    Args:
        labels: the class of each row; None for all where they have no classes.
        groups: the group of each row, which is not divided.
        ratio: the fraction of the smaller part.
        where: the rows are, for a message.

    Raises:
        UserError: if a class has one row or one group only, or its groups cannot be divided.
    """
    totals = Counter(labels)
    members: dict[str, Counter[Hashable]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    spread = Counter(label for counts in members.values() for label in counts)
    for label, total in totals.items():
        if total == 1 or spread[label] == 1:
            raise _one_group(label, total, where)
    due = {label: min(max(1, round(ratio * total)), total - 1) for label, total in totals.items()}
    taken = Counter[Hashable]()
    chosen: set[str] = set()

    def leaves_some(group: str) -> bool:
        return all(taken[label] + count < totals[label] for label, count in members[group].items())

    order = sorted(members, key=lambda group: hashlib.blake2b(group.encode("utf-8", "replace")).digest())
    for group in order:
        counts = members[group].items()
        before = sum(abs(due[label] - taken[label]) for label, _ in counts)
        after = sum(abs(due[label] - taken[label] - count) for label, count in counts)
        if after < before and leaves_some(group):
            chosen.add(group)
            taken.update(members[group])
    for label in totals:
        if taken[label] == 0:  # all of its groups are larger than twice its due number
            fitting = [group for group in order if label in members[group] and leaves_some(group)]
            if not fitting:
                whose = "" if label is None else f" of the class `{label}`"
                raise UserError(
                    f"{where}: the groups{whose} cannot be divided into train and test; give the source a column of "
                    "smaller groups (group_column), or a test split of its own"
                )
            smallest = min(fitting, key=lambda group: members[group].total())
            chosen.add(smallest)
            taken.update(members[smallest])
    return [group in chosen for group in groups]


def _one_group(label: Hashable, total: int, where: str) -> UserError:
    """The error for a class that is in one part only; of rows without classes, for all of them."""
    if label is not None:
        alike = "text" if total == 1 else f"group of {total} texts that belong together or are equal"
        return UserError(
            f"{where}: the class `{label}` has one {alike}, which cannot be in train and in test; add texts of this "
            "class, or remove it"
        )
    if total == 1:
        return UserError(f"{where} has one row, which cannot be in train and in test; add rows, or a test split")
    return UserError(
        f"{where}: all {total} rows are of one group, as questions on one context and equal texts are, which cannot be "
        "in train and in test; add rows of other groups, or a test split"
    )


def known_in_train(
    is_test: Sequence[bool], kinds: Sequence[Collection[str]], groups: Sequence[str], where: str
) -> list[bool]:
    """Which rows are test, without groups that have a label of their own: train would not know it.

    Args:
        is_test: from `divide`.
        kinds: of each row its labels, any number of them.
        groups: the group of each row, which is not divided.
        where: the rows are, for a message.

    Raises:
        UserError: if no row is left for test.
    """
    rows = list(zip(groups, kinds, is_test, strict=True))
    known = {kind for _, own, test in rows if not test for kind in own}
    back = {group for group, own, test in rows if test and not known.issuperset(own)}
    found = [test and group not in back for group, _, test in rows]
    if not any(found):
        raise UserError(
            f"{where}: no text is left for test, since each has a label that train would not know; give more texts of "
            "each label, or a test split of its own"
        )
    return found
