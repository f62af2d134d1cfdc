"""Texts with a tag for each word: lists of tokens and tags, as CoNLL files have them, too, and spans of characters.

However they are written, a row becomes the same: a text, where each of its words stands in it, and a BIO tag for each
word. Words of a text that comes with spans are those that BERT's own tokenizer divides it into, as `transformers` has
them: at spaces, around punctuation marks, and around each Chinese character.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

from bertwright.errors import UserError
from bertwright.text.bert_tokenizer import UNK, bert_tokenizer
from bertwright.text.decoding import parse_json
from bertwright.text.formats import format_of, repaired
from bertwright.text.tags import OUTSIDE

Words = tuple[tuple[int, int], ...]
"""Where each word begins and ends in its text, in characters."""


@cache
def _divider() -> tokenizers.Tokenizer:
    """A tokenizer to which every word is one unknown token: its offsets are those of the words."""
    return bert_tokenizer({UNK: 0}, lowercase=False, strip_accents=False, chinese=True)


def split_words(text: str) -> Words:
    """The words of a text as BERT divides it, by their places; none is empty, and they do not overlap."""
    plain = repaired(text).replace(UNK, "[unk]")  # to the tokenizer, its own token would be one word
    offsets = _divider().encode(plain, add_special_tokens=False).offsets
    return tuple((start, end) for start, end in offsets if start < end)


def joined(tokens: Sequence[str]) -> tuple[str, Words]:
    """Tokens as a text, with a space between them, and their places in it."""
    words = []
    start = 0
    for token in tokens:
        words.append((start, start + len(token)))
        start += len(token) + 1
    return " ".join(tokens), tuple(words)


def as_list(value: Any, where: str, what: str) -> list[Any]:
    """A value that is a list; text, as a cell of a CSV file is, may hold one as JSON.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except (json.JSONDecodeError, RecursionError):
            raise UserError(f"{where} has text where a list of {what} is expected; write it as JSON") from None
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} has {type(value).__name__} where a list of {what} is expected; set {what}_column")
    return list(value)


def read_tokens(value: Any, where: str) -> tuple[str, Words]:
    """A list of tokens as a text with its words; none is an empty text.

    Raises:
        UserError: if it is no list of texts, or a token is empty.
    """
    tokens = [] if value is None else as_list(value, where, "tokens")
    for number, token in enumerate(tokens, 1):
        if not isinstance(token, str) or not token.strip():
            found = "is empty" if isinstance(token, str) or token is None else f"is {type(token).__name__}"
            raise UserError(f"{where}: token {number} of {len(tokens)} {found}; write each word as text")
    return joined([repaired(token) for token in tokens])


def read_tags(value: Any, words: int, where: str, names: Sequence[str] | None) -> tuple[str, ...]:
    """A list of tags.

    Args:
        value: as it was read.
        words: how many there must be.
        where: its place, for a message.
        names: of the tags in the data's schema, by number.

    Raises:
        UserError: if there are more or fewer, or a tag is no name and has none in the schema.
    """
    tags = as_list(value, where, "tags")
    if len(tags) != words:
        raise UserError(f"{where} has {words} tokens and {len(tags)} tags; give each token one tag")
    return tuple(_tag(tag, number, where, names) for number, tag in enumerate(tags, 1))


def _tag(tag: Any, number: int, where: str, names: Sequence[str] | None) -> str:
    if isinstance(tag, str) and tag.strip():
        return tag.strip()
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is not None and 0 <= tag < len(names):
            return names[tag]
        schema = "has no name for it" if names is not None else "names no tags"
        raise UserError(f"{where}: tag {number} is {tag}, and the data's schema {schema}; write names, such as B-PER")
    raise UserError(f"{where}: tag {number} is {tag!r}; write a name, such as B-PER, or O")


def tags_of_spans(text: str, words: Words, value: Any, where: str) -> tuple[str, ...]:
    """BIO tags of words from spans of characters, `{"start": 0, "end": 5, "label": "PER"}`.

    Args:
        text: the text.
        words: its words.
        value: the list of spans.
        where: its place, for a message.

    Raises:
        UserError: if a span lies outside the text, cuts a word or has none, or two overlap.
    """
    tags = [OUTSIDE] * len(words)
    for number, span in enumerate(as_list(value, where, "entities"), 1):
        start, end, label = _span(span, f"{where}: entity {number}")
        named = f"{where}: entity {number} ({label}, characters {start} to {end}"
        if not 0 <= start < end <= len(text):
            raise UserError(f"{named}) does not fit the text, which has {len(text)} characters; correct its offsets")
        inside = [i for i, (a, b) in enumerate(words) if a < end and b > start]
        if not inside:
            raise UserError(f"{named}) holds no word of the text; correct its offsets, or leave it out")
        for i in inside:
            a, b = words[i]
            if a < start or b > end:
                raise UserError(
                    f"{named}: {text[start:end]!r}) cuts the word {text[a:b]!r}, characters {a} to {b}; tags are those "
                    "of whole words: move its ends to where words begin and end"
                )
            if tags[i] != OUTSIDE:
                raise UserError(f"{named}) overlaps another at {text[a:b]!r}; a word has one tag: leave one out")
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{label}"
    return tuple(tags)


def _span(span: Any, where: str) -> tuple[int, int, str]:
    if not isinstance(span, Mapping) or not {"start", "end", "label"} <= set(span):
        raise UserError(f'{where} is {span!r}; write it as {{"start": 0, "end": 5, "label": "PER"}}')
    start, end, label = span["start"], span["end"], span["label"]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in (start, end)):
        raise UserError(f"{where} has start {start!r} and end {end!r}; both count characters of the text from 0")
    if not isinstance(label, str) or not label.strip() or label.strip() == OUTSIDE:
        raise UserError(f"{where} has the label {label!r}; write the name of its type, such as PER")
    return start, end, label.strip()


def words_and_tags(
    text: str, row: Mapping[str, Any], where: str, names: Sequence[str] | None
) -> tuple[str, Words, tuple[str, ...] | None]:
    """A row's text with its words and their tags; the tags are None where the row has none.

    Args:
        text: of a row with entities.
        row: with tokens and tags, or with entities.
        where: its place, for a message.
        names: of the tags in the data's schema, by number.

    Raises:
        UserError: if the row's values do not fit each other.
    """
    if "tags" in row:
        text, words = read_tokens(row["tokens"], where)
        return text, words, None if row["tags"] is None else read_tags(row["tags"], len(words), where, names)
    words = split_words(text)
    return text, words, None if row["entities"] is None else tags_of_spans(text, words, row["entities"], where)


def place_of_word(place: str, word: int) -> str:
    """Where a word stands: its line in a CoNLL file, else its number.

    Args:
        place: of its row, as `formats.place` has it.
        word: its number in the row, from 0.
    """
    file, _, line = place.rpartition(", line ")
    if file and format_of(Path(file)) in (".conll", ".txt"):
        return f"{file}, line {int(line) + word}"
    return f"{place}, word {word + 1}"
