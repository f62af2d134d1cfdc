"""The characters of a corpus: which get entries of a vocabulary, and which are lost on the way to token ids.

Stripping accents (NFD, then no nonspacing mark) costs English nothing. It takes the vowels out of Hindi and Thai, turns
one kana into another and cuts Hangul into its letters. This module tells these cases apart, and counts them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

import tokenizers

ACCENTS = "accents of Latin, Greek and Cyrillic letters"
MARKS = "vowel signs and other marks of other scripts"
HANGUL = "Hangul syllables, cut into their letters"

KEEP_MARKS_FROM = 0.001
"""The fraction of marks and Hangul in a corpus from which on accents are kept by default.

The costs are unequal: keeping accents costs an English text next to nothing, stripping destroys the others.
"""

_COVERAGE = 0.9998
_ALPHABET = 1000
"""Characters that have entries where the vocabulary has room, however rare they are; the library's own default."""

# Blocks of accents that any script may use; and of signs that are no part of a letter: variation selectors, enclosures.
_GENERAL = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0xFE20, 0xFE2F))
_NO_LETTERS = ((0x20D0, 0x20FF), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))

_LONGEST_WORD = 100
_MAYBE_LONG = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


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
    room: int,
) -> tuple[list[str], float]:
    """The characters that get entries of their own.

    Args:
        found: the one-character entries that the texts allow, first in a word (a) and within one (##a).
        texts: what the vocabulary is trained on.
        normalizer: the tokenizer's.
        limit: the most characters; None takes 1,000, or more where fewer cover less than 99.98 % of the texts, and no
            more than fit into `room`.
        room: entries that characters may take.

    Returns:
        The characters, sorted, and the fraction of all characters in the texts that they cover.
    """
    entries = set(found)
    characters = sorted(entry for entry in entries if len(entry) == 1)
    if len(characters) <= (_ALPHABET if limit is None else limit) and (limit is not None or len(entries) <= room):
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
            full = taken + cost > room or (len(chosen) >= _ALPHABET and covered >= _COVERAGE * total)
        else:
            full = len(chosen) >= limit
        if full:
            break
        chosen.append(character)
        covered += counts[character]
        taken += cost
    return sorted(chosen), covered / total


class CharacterCheck:
    """Counts what a tokenizer does not keep of texts.

    Args:
        inner: a tokenizer of the `tokenizers` library.
        vocabulary: its entries.
    """

    def __init__(self, inner: tokenizers.Tokenizer, vocabulary: Mapping[str, int]) -> None:
        self._inner = inner
        self._vocabulary = vocabulary
        self._fates: dict[str, tuple[bool, str | None]] = {}

    def _fate(self, character: str) -> tuple[bool, str | None]:
        """Whether a character is outside of the alphabet, and what stripping takes from it."""
        if character not in self._fates:
            kept = self._inner.normalizer.normalize_str(character) if self._inner.normalizer else character
            kept = "".join(kept.split())
            outside = any(c not in self._vocabulary and f"##{c}" not in self._vocabulary for c in kept)
            taken = what_stripping_takes(character)
            marks_left = any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", kept))
            if taken == HANGUL:
                marks_left = kept == character
            self._fates[character] = outside, None if marks_left else taken
        return self._fates[character]

    def count(self, text: str) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """What is lost of a text.

        Returns:
            Characters outside of the alphabet; characters that stripping changes or removes, by kind; and words of
            more than 100 characters, each of which is one [UNK], under `words`, with the characters in them.
        """
        fates = {c: self._fate(c) for c in set(text)}
        watched = {c: fate for c, fate in fates.items() if fate != (False, None)}
        counts = Counter(text) if len(watched) > 50 else Counter({c: text.count(c) for c in watched})
        outside, stripped = Counter[str](), Counter[str]()
        for character, (is_outside, taken) in watched.items():
            if is_outside:
                outside[character] += counts[character]
            if taken is not None:
                stripped[taken] += counts[character]
        return outside, stripped, self._long_words(text)

    def _long_words(self, text: str) -> Counter[str]:
        found: Counter[str] = Counter()
        if self._inner.pre_tokenizer is None:
            return found
        for match in _MAYBE_LONG.finditer(text):
            normalized = self._inner.normalizer.normalize_str(match[0]) if self._inner.normalizer else match[0]
            for word, _ in self._inner.pre_tokenizer.pre_tokenize_str(normalized):
                if len(word) > _LONGEST_WORD:
                    found["words"] += 1
                    found["characters"] += len(word)
        return found
