"""Tag schemes of entities: every scheme becomes BIO, and a tag that fits none is refused with its place.

In BIO (also called IOB2), an entity's first word has B-TYPE, its others I-TYPE, and all other words O. The tags of
CoNLL-2003 are IOB1, where B- marks only an entity right behind another of its type; BIOES marks last and lone words,
too, and BMES, common in Chinese corpora, is BIOES with M- for I-. Tags without such a prefix, as parts of speech, are
no entities: each is the class of its word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bertwright.errors import UserError

OUTSIDE = "O"
"""The tag of a word that is in no entity."""

_PREFIXED = re.compile(r"([BIMESLU])-(.+)", re.DOTALL)
CONTINUES = frozenset("IMEL")
"""Prefixes of a word that continues an entity, in every scheme."""

_LAST = ("E", "S", "L", "U")
"""Prefixes of an entity's last word, in BIOES and in BILOU."""

Place = Callable[[int], str]
"""The place of a word of a row, for a message, by its number from 0."""


@dataclass(frozen=True)
class Tagged:
    """The tags of a row.

    Args:
        tags: one for each word.
        place: of a word.
    """

    tags: tuple[str, ...]
    place: Place


def split_tag(tag: str) -> tuple[str, str]:
    """A tag as prefix and type, as B and PER; the prefix is empty where it has none, and O has no type."""
    found = _PREFIXED.fullmatch(tag)
    return (found[1], found[2]) if found else ("", "" if tag == OUTSIDE else tag)


def split_tags(tags: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Prefix and type of each of the tags that stand together.

    M- is a prefix beside O or another prefix alone: classes of words such as M-SG and F-SG have none.
    """
    parts = {tag: split_tag(tag) for tag in tags}
    if OUTSIDE not in parts and {prefix for prefix, _ in parts.values()} <= {"", "M"}:
        return {tag: ("", tag) for tag in parts}
    return parts


def begins_entity(tag: str, before: str) -> bool:
    """Whether a word's entity begins at it: at B-, and at I- that follows no word of the same type.

    Args:
        tag: of the word.
        before: of the word before it; O where there is none.
    """
    prefix, kind = split_tag(tag)
    return kind != "" and (prefix not in CONTINUES or split_tag(before)[1] != kind)


def has_entities(tags: Iterable[str]) -> bool:
    """Whether tags are of entities, B-TYPE, I-TYPE and O, and not classes of words."""
    parts = split_tags(tags)
    return OUTSIDE in parts or any(prefix for prefix, _ in parts.values())


def to_bio(rows: Sequence[Tagged]) -> tuple[list[tuple[str, ...]], str | None]:
    """The rows of one split in BIO, and what was converted, in words; tags of words come as they are.

    Args:
        rows: all rows of the split, since a scheme shows in many rows.

    Raises:
        UserError: if a tag fits no scheme, with its place.
    """
    used = {tag for row in rows for tag in row.tags}
    parts = split_tags(used)
    prefixes = {parts[tag][0] for tag in used if tag != OUTSIDE}
    if OUTSIDE not in used and prefixes == {""}:
        return [row.tags for row in rows], None
    if "" in prefixes:
        number, row = _first(rows, lambda row, i: row.tags[i] != OUTSIDE and parts[row.tags[i]][0] == "")
        tag = row.tags[number]
        raise UserError(
            f"{row.place(number)} has the tag {tag!r}, which is neither O nor begins with B- or I-; write B-{tag} for "
            f"the first word of an entity and I-{tag} for its others"
        )
    if prefixes & set(_LAST):
        scheme = "BMES" if "M" in prefixes else "BIOES"
        for row in rows:
            _check_ends(row, scheme)
        return [tuple(_bio(tag) for tag in row.tags) for row in rows], f"{scheme}, read as BIO"
    if "M" in prefixes:
        number, row = _first(rows, lambda row, i: split_tag(row.tags[i])[0] == "M")
        tag = row.tags[number]
        raise UserError(
            f"{row.place(number)} has the tag {tag!r}, as the inside of an entity in BMES, but no entity ends with E-; "
            f"write I-{tag[2:]}, or E-{tag[2:]} for the last word of each entity"
        )
    faults = [(row, i) for row in rows for i in range(len(row.tags)) if _is_loose(row.tags, i)]
    if not faults:
        return [row.tags for row in rows], None
    if any(_is_no_iob1(row.tags, i) for row in rows for i in range(len(row.tags))):
        row, i = faults[0]
        kind = split_tag(row.tags[i])[1]
        before = row.tags[i - 1] if i else "nothing"
        raise UserError(
            f"{row.place(i)} has the tag {row.tags[i]!r} after {before}, where no entity of this type has begun; write "
            f"B-{kind} for the first word of an entity"
        )
    return [tuple(_begun(row.tags, i) for i in range(len(row.tags))) for row in rows], "IOB1, read as BIO"


def _first(rows: Sequence[Tagged], found: Callable[[Tagged, int], bool]) -> tuple[int, Tagged]:
    return next((i, row) for row in rows for i in range(len(row.tags)) if found(row, i))


def _is_loose(tags: Sequence[str], i: int) -> bool:
    """Whether a word is within an entity that no word before it begins or continues."""
    return tags[i].startswith("I-") and begins_entity(tags[i], tags[i - 1] if i else OUTSIDE)


def _is_no_iob1(tags: Sequence[str], i: int) -> bool:
    """Whether a word has B- though no entity of its type stands right before it, which IOB1 does not have."""
    return tags[i].startswith("B-") and (i == 0 or split_tag(tags[i - 1])[1] != split_tag(tags[i])[1])


def _begun(tags: Sequence[str], i: int) -> str:
    return f"B-{split_tag(tags[i])[1]}" if _is_loose(tags, i) else tags[i]


def _bio(tag: str) -> str:
    prefix, kind = split_tag(tag)
    return f"{'I' if prefix in CONTINUES else 'B'}-{kind}" if prefix else tag


def _check_ends(row: Tagged, scheme: str) -> None:
    """See that each entity of BIOES begins with B- and ends with E-, or is S- alone; BILOU has L- and U-, BMES M-."""
    open_type = ""  # of an entity that has not ended
    for i, tag in enumerate((*row.tags, OUTSIDE)):
        prefix, kind = split_tag(tag)
        continues = prefix in CONTINUES
        if continues != (open_type != "") or (continues and kind != open_type):
            at = i if continues else i - 1
            problem = f"no entity of {kind} is open before it" if continues else f"the entity of {open_type} has no end"
            raise UserError(
                f"{row.place(at)} has the tag {row.tags[at]!r}, but {problem}; in {scheme} an entity is B-, "
                f"{'M' if scheme == 'BMES' else 'I'}- and E-, or S- alone"
            )
        open_type = kind if prefix in ("B", "I", "M") else ""


def counted(rows: Iterable[Sequence[str]]) -> dict[str, int]:
    """Entities of each type, or words of each tag where tags are no entities, by name.

    Args:
        rows: tags in BIO, of each row.
    """
    given = list(rows)
    kinds: Counter[str] = Counter()
    entities = has_entities(tag for tags in given for tag in tags)
    for tags in given:
        if entities:
            kinds.update(
                split_tag(tag)[1] for i, tag in enumerate(tags) if begins_entity(tag, tags[i - 1] if i else OUTSIDE)
            )
        else:
            kinds.update(tags)
    return dict(sorted(kinds.items()))
