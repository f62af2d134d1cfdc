"""The characters of a corpus: which get entries of a vocabulary, and which are lost on the way to token ids.

Stripping accents (NFD, then no nonspacing mark) costs English nothing. It takes the vowels out of Hindi and Thai, turns
one kana into another and cuts Hangul into its letters. This module tells these cases apart, and counts them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tokenizers
from tokenizers.models import BPE

from bertwright.text.bert_tokenizer import LONGEST_WORD
from bertwright.text.formats import repaired

ACCENTS = "accents of Latin, Greek and Cyrillic letters"
MARKS = "vowel signs and other marks of other scripts"
HANGUL = "Hangul syllables, cut into their letters"

KEEP_MARKS_FROM = 0.001
"""The fraction of marks and Hangul in a corpus from which on accents are kept by default.

The costs are unequal: keeping accents costs an English text next to nothing, stripping destroys the others.
"""

_COVERAGE = 0.9998
_ALPHABET = 1000
"""Characters that have entries where they fit, however rare they are; the library's own default."""

# Blocks of accents that any script may use; and of signs that are no part of a letter: variation selectors, enclosures.
_GENERAL = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0xFE20, 0xFE2F))
_NO_LETTERS = ((0x20D0, 0x20FF), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))

_MAYBE_LONG = re.compile(rf"(?<!\S)\S{{{LONGEST_WORD + 1},}}")


def _within(character: str, blocks: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(character) <= last for first, last in blocks)


@cache
def what_stripping_takes(character: str) -> str | None:
    """`ACCENTS`, `MARKS` or `HANGUL`, where stripping accents changes a character; None where it does not matter."""
    marks = [part for part in unicodedata.normalize("NFD", character) if unicodedata.category(part) == "Mn"]
    if not marks:
        return HANGUL if "\uac00" <= character <= "\ud7a3" else None
    if all(_within(mark, _NO_LETTERS) for mark in marks):
        return None
    return ACCENTS if all(_within(mark, _GENERAL) for mark in marks) else MARKS


def marks_fraction(texts: Iterable[str]) -> float:
    """The fraction of the characters, white space left out, from which stripping accents would take more than accents.

    Args:
        texts: a sample of the corpus.
    """
    lost = characters = 0
    for text in texts:
        characters += len(text) - text.count(" ") - text.count("\n")
        if not text.isascii():
            found = Counter(text) if len(set(text)) > 200 else {c: text.count(c) for c in set(text)}
            lost += sum(n for c, n in found.items() if what_stripping_takes(c) in (MARKS, HANGUL))
    return lost / max(1, characters)


def choose_alphabet(
    found: Iterable[str],
    texts: Iterable[str],
    normalizer: tokenizers.normalizers.Normalizer,
    limit: int | None,
    capacity: int,
) -> tuple[list[str], float]:
    """The characters that get entries of their own.

    Args:
        found: the one-character entries that the texts allow, first in a word (a) and within one (##a).
        texts: what the vocabulary is trained on.
        normalizer: the tokenizer's.
        limit: the most characters; None takes 1,000, or more where fewer cover less than 99.98 % of the texts, and no
            more than fit into `capacity`.
        capacity: entries that characters may take.

    Returns:
        The characters, sorted, and the fraction of all characters in the texts that they cover.
    """
    entries = set(found)
    characters = sorted(entry for entry in entries if len(entry) == 1)
    if len(characters) <= (_ALPHABET if limit is None else limit) and (limit is not None or len(entries) <= capacity):
        return characters, 1.0
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted(characters, key=lambda c: (-counts[c], c))  # ties go to the smaller code
    total = max(1, sum(counts[c] for c in ranked))
    chosen: list[str] = []
    covered = taken = 0
    for character in ranked:
        cost = 1 + (f"##{character}" in entries)
        if limit is None:
            full = taken + cost > capacity or (len(chosen) >= _ALPHABET and covered >= _COVERAGE * total)
        else:
            full = len(chosen) >= limit
        if full:
            break
        chosen.append(character)
        covered += counts[character]
        taken += cost
    return sorted(chosen), covered / total


@dataclass
class Losses:
    """What a tokenizer does not keep of texts.

    Args:
        characters: in the texts.
        outside: characters without an entry, and how often they occur.
        stripped: characters that stripping accents changes or removes, by kind.
        long_words: words of more than 100 characters, each of which is one [UNK].
        long_word_characters: characters in these.
    """

    characters: int = 0
    outside: Counter[str] = field(default_factory=Counter)
    stripped: Counter[str] = field(default_factory=Counter)
    long_words: int = 0
    long_word_characters: int = 0

    def add(self, other: Losses) -> None:
        """Count those of other texts, too."""
        self.characters += other.characters
        self.outside.update(other.outside)
        self.stripped.update(other.stripped)
        self.long_words += other.long_words
        self.long_word_characters += other.long_word_characters

    @property
    def most_frequent_outside(self) -> dict[str, int]:
        """The ten most frequent characters without an entry; ties go to the smaller code."""
        return dict(sorted(self.outside.items(), key=lambda item: (-item[1], item[0]))[:10])

    def as_dict(self) -> dict[str, Any]:
        """As plain values, with the ten most frequent characters that have no entry."""
        return {
            "in_text": self.characters,
            "outside_alphabet": self.outside.total(),
            "different_outside_alphabet": len(self.outside),
            "most_frequent_outside_alphabet": self.most_frequent_outside,
            "stripped": dict(self.stripped),
            "words_over_100_characters": self.long_words,
            "in_words_over_100_characters": self.long_word_characters,
        }

    def warnings(self, is_given: bool) -> list[str]:
        """What a user should know, in sentences; a vocabulary that exists cannot be told to keep accents."""
        keep = "set tokenizer.strip_accents: false"
        if is_given:
            keep = f"take an encoder that keeps them, or train a vocabulary ({keep})"
        found = []
        total = max(1, self.characters)
        if self.outside.total() > 0.001 * total:
            most = ", ".join(f"{c} {n:,}" for c, n in self.most_frequent_outside.items())
            found.append(
                f"{self.outside.total() / total:.2%} of the characters have no entry in the vocabulary, and words "
                f"with them are unknown, unless they are entries as a whole; most often: {most}"
            )
        letters = self.stripped[MARKS] + self.stripped[HANGUL]
        if letters > KEEP_MARKS_FROM * total:
            found.append(
                f"stripping accents changes letters: {letters:,} characters are vowel signs, similar marks or Hangul; "
                f"{keep}"
            )
        if self.stripped[ACCENTS] > 0.05 * total:
            found.append(
                f"{self.stripped[ACCENTS] / total:.1%} of the characters lose an accent; where accents tell words "
                f"apart, as in Vietnamese, {keep}"
            )
        if self.long_word_characters > 0.005 * total:
            found.append(
                f"{self.long_words:,} words of more than 100 characters are unknown, "
                f"{self.long_word_characters / total:.1%} of the text; in a script without blanks between words, such "
                "as Thai, put blanks there first, with a program that cuts words"
            )
        return found


class CharacterCheck:
    """Counts what a tokenizer does not keep of texts.

    Args:
        inner: a tokenizer of the `tokenizers` library.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self._knows_all = isinstance(inner.model, BPE)  # of bytes
        self._vocabulary = inner.get_vocab()
        self._fates: dict[str, tuple[bool, str | None]] = {}

    def _normalized(self, text: str) -> str:
        return text if self._inner.normalizer is None else str(self._inner.normalizer.normalize_str(text))

    def _fate(self, character: str) -> tuple[bool, str | None]:
        """Whether a character is outside of the alphabet, and what stripping takes from it."""
        if character not in self._fates:
            kept = "".join(self._normalized(repaired(character)).split())
            outside = any(c not in self._vocabulary and f"##{c}" not in self._vocabulary for c in kept)
            taken = what_stripping_takes(character)
            if taken == HANGUL:
                is_kept = kept == character
            else:
                is_kept = any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", kept))
            self._fates[character] = outside, None if is_kept else taken
        return self._fates[character]

    def count(self, text: str) -> Losses:
        """What is lost of a text."""
        if self._knows_all:
            return Losses(len(text))
        fates = {c: self._fate(c) for c in set(text)}
        watched = {c: fate for c, fate in fates.items() if fate != (False, None)}
        counts = Counter(text) if len(watched) > 50 else Counter({c: text.count(c) for c in watched})
        found = Losses(len(text))
        for character, (is_outside, taken) in watched.items():
            if is_outside:
                found.outside[character] += counts[character]
            if taken is not None:
                found.stripped[taken] += counts[character]
        self._count_long_words(text, found)
        return found

    def _count_long_words(self, text: str, found: Losses) -> None:
        for match in _MAYBE_LONG.finditer(text) if self._inner.pre_tokenizer is not None else ():
            for word, _ in self._inner.pre_tokenizer.pre_tokenize_str(self._normalized(repaired(match[0]))):
                if len(word) > LONGEST_WORD:
                    found.long_words += 1
                    found.long_word_characters += len(word)
