"""What stands for a word where texts are compared by their words: a run of letters and digits with their marks.

Python's regular expressions end a word at a combining mark, so that they cut words of Hindi or Tamil, and vowelled ones
of Arabic and Hebrew, into single consonants. Here a mark belongs to the letter before it, as do the joiners of Persian
and Hindi (Unicode Standard Annex 29, rule WB4). In scripts that put no spaces between words each letter is one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_JOINERS = "\u200c\u200d"
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and ideographs
)


def is_word(letter: str) -> bool:
    """Whether a letter is a word by itself, as in scripts that put no spaces between words."""
    return re.match(f"[{_UNSPACED}]", letter) is not None


@cache
def word_pattern() -> re.Pattern[str]:
    """A word."""
    continues, letter = _marks() + _JOINERS, rf"[^\W{_UNSPACED}]"
    return re.compile(rf"(?=\w)[{_UNSPACED}][{continues}]*|{letter}(?:{letter}|[{continues}])*")


def _marks() -> str:
    """The combining marks of Unicode, as ranges of a character class."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code)).startswith("M"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
