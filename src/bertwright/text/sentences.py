"""Cutting running text into sentences: a few rules in one regular expression, fast enough never to be the bottleneck.

A sentence is the unit that next-sentence prediction pairs (paper, section 3.1, task 2). An error costs little there,
since BERT's "sentence" is any contiguous span; speed costs on every run. The rules are measured against two libraries
in `benchmarks/sentence_speed.py`; `docs/decisions.md` says why none is used.
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


def split_sentences(text: str, html_line_breaks: bool = False) -> list[str]:
    r"""Cut text into sentences.

    A line break always ends a sentence. Within a line, a sentence ends at a full stop, an ellipsis, an
    exclamation or a question mark, closing quotes and brackets included, unless the stop belongs to an abbreviation or
    an initial, or a small letter shows that the sentence runs on (`"Why?" she asked`).

    Args:
        text: any text. The time taken is linear in its length.
        html_line_breaks: whether a `<br />` is a line break, too.

    Returns:
        The sentences in order, none of them blank, without white space around them. Joined, they are the text up to
        white space and line breaks: nothing else is lost or changed.

    Examples:
        >>> split_sentences('Mr. Wu left. "Why?" she asked.\nNobody knew!')
        ['Mr. Wu left.', '"Why?" she asked.', 'Nobody knew!']
    """
    sentences = []
    if html_line_breaks and "<" in text:
        text = HTML_BREAK.sub("\n", text)
    for line in text.splitlines():
        start = 0
        for boundary in _BOUNDARY.finditer(line):
            sentences.append(line[start : boundary.end()].strip())
            start = boundary.end()
        if rest := line[start:].strip():
            sentences.append(rest)
    return sentences
