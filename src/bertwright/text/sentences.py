"""Cutting running text into sentences: a few rules in one regular expression, fast enough never to be the bottleneck.

A sentence is the unit that next-sentence prediction pairs (paper, section 3.1, task 2). An error costs little there,
since BERT's "sentence" is any contiguous span; speed costs on every run. The rules are measured against two libraries
in `benchmarks/sentence_speed.py`; `docs/decisions.md` says why none is used.

The Latin full stop is ambiguous and has rules of its own; the marks of other scripts end a sentence wherever they
stand. Text without any of them is cut by the Latin rules alone.
"""

from __future__ import annotations

import re

# A line break in HTML, in its spellings.
HTML_BREAK = re.compile(r"<br\s*+/?>", re.IGNORECASE)

# Words whose full stop announces a name, and so never ends a sentence.
_TITLES = (
    "Mr Mrs Ms Mx Dr Prof Rev Hon St Ste Mt Ft Gen Maj Col Capt Cmdr Lt Sgt Adm Gov Sen Rep Pres Supt Det Insp "
    "Sr Fr Bro Mme Mlle Messrs vs cf viz e.g i.e eg ie approx"
)
# Words whose full stop announces a number: "No. 5" is one sentence, "No. Never!" two.
_NUMBERED = "No Nos Fig Ch Vol pp Jan Feb Mar Apr Aug Sept Oct Nov Dec"
# Words that may end a sentence, yet not when a small letter follows.
_SHORTENED = "etc Inc Ltd Co Corp Jr Bros Esq dept min sec hr hrs yr yrs ft lb oz mins dir feat incl"


def _not_after(words: str) -> str:
    """Look-behinds against these words with a stop: one per length of word, for Python wants each of a fixed width."""
    by_length: dict[int, list[str]] = {}
    for word in words.split():
        by_length.setdefault(len(word), []).append(f"[{word[0].upper()}{word[0].lower()}]{re.escape(word[1:])}")
    return "".join(rf"(?<!\b(?:{'|'.join(same)})\.)" for same in by_length.values())


# The characters with Unicode's property Sentence_Terminal, but for `.`, `!` and `?`; and the Tibetan shad.
_MARKS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u0f0d\u0f0e\u104a\u104b"
    "\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b"
    "\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54"
    "\u2e60\u2e61\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0"
    "\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61\U00010a56\U00010a57\U00010f55-\U00010f59"
    "\U00010f86-\U00010f89\U00011047\U00011048\U000110be-\U000110c1\U00011141-\U00011143\U000111c5\U000111c6\U000111cd"
    "\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U000113d4\U000113d5\U0001144b\U0001144c"
    "\U000115c2\U000115c3\U000115c9-\U000115d7\U00011641\U00011642\U0001173c-\U0001173e\U00011944\U00011946\U00011a42"
    "\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7\U00011ef8\U00011f43\U00011f44\U00016a6e\U00016a6f"
    "\U00016af5\U00016b37\U00016b38\U00016b44\U00016d6e\U00016d6f\U00016e98\U0001bc9f\U0001da88"
)
# Marks that also stand within a word, so that white space must follow: Armenian signs over a vowel, the one-dot leader.
_SPACED_MARKS = "\u037e\u055c\u055e\u2024"
# What closes a quotation or a bracket after a mark.
_CLOSING = "\"'”’»\u203a)\\]}」』\uff09\uff3d\uff5d〕〉》】〗〙〛｣"
# Ideographs, kana and their punctuation, before which a Latin `!` or `?` needs no blank.
_EAST_ASIAN = "\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

# Possessive (`++`, `*+`) and anchored to the first stop of a run, so that no text takes more than linear time.
_BOUNDARY = re.compile(
    rf"""
    (?<![.!?…]) [.!?…]++
    (?: (?<! \b[A-HJ-Z]\. ) {_not_after(_TITLES)}                      # J. R. R. Tolkien; but "So did I. And ..."
        (?: {_not_after(_NUMBERED)} | (?! \s++\d ) )
        [\"'”’)\]}}*»]*+ (?= \s++ [\"'“‘(\[{{*«_\#$£€¿¡~-]*+ [^\W_a-z] )    # closed, and a capital or a figure follows
      | (?<= [a-z0-9][a-z0-9)\"']\. ) (?<! \.[a-z]\. ) {_not_after(_TITLES + " " + _SHORTENED)}
        (?= \s++ ["'“‘(]?+ [a-z] )                                     # a writer who never uses capitals
      | (?<= [a-z][a-z][.!?] ) (?= [A-Z][a-z] ) )                      # a blank forgotten.Like this
    """,
    re.VERBOSE,
)
# The same with the marks of other scripts, for the lines that have any.
_ANY_BOUNDARY = re.compile(
    rf"""
    (?: [{_MARKS}] (?! (?<= \uff0e) \d ) | [{_SPACED_MARKS}] (?= [{_CLOSING}]*+ (?: \s | \Z ) ) )
    [.!?…{_MARKS}{_SPACED_MARKS}]*+ [{_CLOSING}]*+
    | (?<! [!?] ) [!?]++ [{_CLOSING}]*+ (?= [{_EAST_ASIAN}] )
    | {_BOUNDARY.pattern}
    """,
    re.VERBOSE,
)
_OTHER_SCRIPTS = re.compile(f"[{_MARKS}{_SPACED_MARKS}{_EAST_ASIAN}]")

# Scripts that write no mark at the end of a sentence: Thai and Lao. There a space parts clauses and sentences, and one
# near the end of this many characters is taken for a boundary.
_UNMARKED_SPACE = re.compile(r"(?<=[\u0e00-\u0eff])\s+(?=[\u0e00-\u0eff])")
_UNMARKED_CHARACTERS = 100


def split_lines(text: str, html_line_breaks: bool = False) -> list[str]:
    """The lines of a text; a `<br />` ends one, too, if that is asked for."""
    return (HTML_BREAK.sub("\n", text) if html_line_breaks and "<" in text else text).splitlines()


def split_sentences(text: str, html_line_breaks: bool = False) -> list[str]:
    r"""Cut text into sentences.

    A line break always ends a sentence. Within a line, a sentence ends at a full stop, an ellipsis, an
    exclamation or a question mark, closing quotes and brackets included, unless the stop belongs to an abbreviation or
    an initial, or a small letter shows that the sentence runs on (`"Why?" she asked`). The marks of other scripts
    (Unicode's Sentence_Terminal, such as `。`, `।`, `؟` and `።`) end one with or without a blank after them.
    Thai and Lao write no such mark: their long lines are cut at spaces, after 100 characters or more.

    Args:
        text: any text. The time taken is linear in its length.
        html_line_breaks: whether a `<br />` is a line break, too.

    Returns:
        The sentences in order, none of them blank, without white space around them. Joined, they are the text up to
        white space and line breaks: nothing else is lost or changed.

    Examples:
        >>> split_sentences('Mr. Wu left. "Why?" she asked.\nNobody knew!')
        ['Mr. Wu left.', '"Why?" she asked.', 'Nobody knew!']
        >>> split_sentences("「行く。」彼は言った。雨だ")
        ['「行く。」', '彼は言った。', '雨だ']
    """
    sentences: list[str] = []
    for line in split_lines(text, html_line_breaks):
        pattern = _BOUNDARY if line.isascii() or not _OTHER_SCRIPTS.search(line) else _ANY_BOUNDARY
        start = 0
        for boundary in pattern.finditer(line):
            sentences += _parts(line[start : boundary.end()].strip())
            start = boundary.end()
        if rest := line[start:].strip():
            sentences += _parts(rest)
    return sentences


def _parts(sentence: str) -> list[str]:
    """The parts of a sentence: a long one of Thai or Lao is cut at spaces, any other is one part."""
    if len(sentence) <= _UNMARKED_CHARACTERS or sentence.isascii():
        return [sentence]
    parts, start = [], 0
    for space in _UNMARKED_SPACE.finditer(sentence):
        if space.start() - start >= _UNMARKED_CHARACTERS:
            parts.append(sentence[start : space.start()])
            start = space.end()
    return [*parts, sentence[start:]]
