"""Tagged texts, as users get them: words with their tags, and the entities that these make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bertwright.arrays import Floats
from bertwright.tasks.entities import scheme_of, spans
from bertwright.text.records import Record


@dataclass(frozen=True)
class Entity:
    """An entity of a text, or a word with its tag where tags are no entities.

    Args:
        start: its first character's place in the text.
        end: the place after its last character.
        text: its characters.
        label: its type.
        score: the mean probability of its words' tags.
    """

    start: int
    end: int
    text: str
    label: str
    score: float


@dataclass(frozen=True)
class TaggedText:
    """A text with its tags.

    Args:
        text: the text; of tokens, these with a space between them.
        tokens: its words.
        tags: the most probable tag of each.
        scores: the probability of each of these.
        entities: in order.
    """

    text: str
    tokens: list[str]
    tags: list[str]
    scores: list[float]
    entities: list[Entity]

    def marked(self) -> str:
        """The text on one line, with each entity in brackets: `[Ada Lovelace PER] was here`."""
        shown, place = "", 0
        for one in self.entities:
            shown += f"{self.text[place : one.start]}[{one.text} {one.label}]"
            place = one.end
        return " ".join((shown + self.text[place:]).split())

    def listed(self) -> str:
        """The entities in words."""
        return ", ".join(f"{one.text} ({one.label})" for one in self.entities) or "no entity"


def tokens_of(record: Record) -> list[str]:
    """The words of a record."""
    return [record.text[start:end] for start, end in record.words or ()]


def spaced_tokens_of(record: Record) -> list[str]:
    """The words of a record, each with the white space before it, if there is some, as one space."""
    return [
        f" {record.text[start:end]}" if record.text[max(0, start - 1) : start].isspace() else record.text[start:end]
        for start, end in record.words or ()
    ]


def tag_texts(predictions: Floats, names: Sequence[str], records: Sequence[Record]) -> list[TaggedText]:
    """The most probable tag of each word, and the entities of these.

    Args:
        predictions: probabilities, (records, most words, K).
        names: of the K tags.
        records: with their words.
    """
    scheme = scheme_of(names)
    found = []
    for row, record in zip(predictions, records, strict=True):
        places = record.words or ()
        tags, scores = row[: len(places)].argmax(axis=1), row[: len(places)].max(axis=1).astype(np.float64)
        inside = []
        for a, b, kind in zip(*(one.tolist() for one in spans(tags, np.arange(len(places)) == 0, scheme)), strict=True):
            start, end = places[a][0], places[b - 1][1]
            score = float(scores[a:b].mean())
            inside.append(Entity(start, end, record.text[start:end], scheme.types[kind], score))
        written = [names[tag] for tag in tags]
        found.append(TaggedText(record.text, tokens_of(record), written, scores.tolist(), inside))
    return found
