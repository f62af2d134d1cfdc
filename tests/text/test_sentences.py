"""Sentence boundaries: what is a boundary, what is not, and that no text is lost."""

import re
import time

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from bertwright.text.sentences import split_sentences

# Each text with its boundaries marked by a bar.
MARKED = [
    "One thing.| Then another!| Was it?| Yes.",
    "Mr. and Mrs. Wu met Dr. No at St. Paul's.| Prof. Li stayed away.",
    "J. R. R. Tolkien wrote it.| So did I.| And so did C. S. Lewis.",
    "The U.S. Army left.| It rated 3.5 stars of No. 5.| No.| Never!",
    "Actors, e.g. Bogart, i.e. stars, vs. extras etc. were there.| Fig. 3 shows it, cf. Smith.",
    '"I know.| I always knew," he said.| "And you?"| She laughed.',
    "He waited... and waited...| Then he left.| Well…| Fine.",
    "Ha! ha! he laughed.| (It was funny.)| [Really.]| “Quite so.”| All agreed.",
    "i saw this movie.| it was bad.| never again",
    "Great!!!| Really?!| Yes!!| 10 of 10.| (Spoilers!)",
    "The end of Part II.| In 1999 it cost $5.| £3 more.| Émile Zola wrote.| 漢字 too.",
]


@pytest.mark.parametrize("marked", MARKED)
def test_sentences_end_where_a_reader_would_end_them(marked: str) -> None:
    assert split_sentences(marked.replace("|", "")) == [sentence.strip() for sentence in marked.split("|")]


def test_a_small_letter_after_a_closing_quote_shows_that_the_sentence_runs_on() -> None:
    assert split_sentences('"Why?" she asked. "Go!" He went.') == ['"Why?" she asked.', '"Go!"', "He went."]


def test_a_blank_that_a_typist_forgot_does_not_hide_a_boundary() -> None:
    text = "A good one!Christine was lovely.The rest is at IMDb.com."
    assert split_sentences(text) == ["A good one!", "Christine was lovely.", "The rest is at IMDb.com."]


def test_lines_paragraphs_and_html_breaks_end_sentences_and_only_the_tags_vanish() -> None:
    text = "A title\n\nOne line\r\nanother.<br /><br />No stop<br>Last<BR/>\u2028x < y <b>bold</b>"
    expected = ["A title", "One line", "another.", "No stop", "Last", "x < y <b>bold</b>"]
    assert split_sentences(text, html_line_breaks=True) == expected


def test_a_tag_is_text_where_line_breaks_are_not_written_in_html() -> None:
    assert split_sentences("Write <br /> for a break.\nDone.") == ["Write <br /> for a break.", "Done."]


def test_blank_text_has_no_sentences() -> None:
    assert split_sentences("") == split_sentences(" \n\t \u3000") == []
    assert split_sentences(" \n\t<br /> \u3000", html_line_breaks=True) == []


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="aB1.!?。！？．।՜」好กข…\"')(- \n\u2028”<br/>"),
        st.lists(st.sampled_from(MARKED)).map(" ".join),
    )
)
def test_no_text_is_lost_added_or_blank(text: str) -> None:
    for html_line_breaks, kept in ((False, text), (True, re.sub(r"(?i)<br\s*/?>", " ", text))):
        sentences = split_sentences(text, html_line_breaks)
        assert "".join("".join(sentences).split()) == "".join(kept.split())
        assert all(sentence == sentence.strip() != "" for sentence in sentences)


@pytest.mark.parametrize(
    "piece",
    [
        ".",
        ". ",
        "!",
        '." ',
        "<br ",
        "<br />",
        " ",
        "-",
        '?"',
        "." + "-" * 50,
        "!" * 1000 + " ",
        "Mr. ",
        ".\u3000",
        "。",
        "好!",
        "．1",
        "՜",
        "՜」",
        "ก " * 60,
        "ก  ",
    ],
)
def test_no_text_takes_more_than_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    start = time.perf_counter()
    split_sentences(text, html_line_breaks=True)
    assert time.perf_counter() - start < 2  # quadratic time would take minutes


OTHER_SCRIPTS = [
    "你好。|我来了！|真的吗？|「行。」|他说（大概）。|“好！”|她笑了。|价格是３．５元。",
    "雨が降る。|本当？！|「はい。」|すごい！！|終わり",
    "好!|你来吗?|来。|OK!|我们走。|他说……我不知道。",
    "यह घर है।|वह आया॥|ठीक है?| हाँ।",
    "هل جئت؟| نعم، جئت.| Good.| یہ گھر ہے۔| اچھا۔",
    "በጣም።| ጥሩ፧| አዎ",
    "Վա՜յ մայրիկ։| Ինչո՞ւ եկար։| Այո",
    "བོད།| ཡིན།",
    "안녕하세요.| 반갑습니다!| 네?| 좋아요。|끝",
    "ကောင်းတယ်။| ဟုတ်တယ်။",
    "Привет.| Как дела?| Хорошо!",
]


@pytest.mark.parametrize("marked", OTHER_SCRIPTS)
def test_sentences_end_at_the_marks_of_the_worlds_scripts(marked: str) -> None:
    assert split_sentences(marked.replace("|", "")) == [sentence.strip() for sentence in marked.split("|")]


def test_every_character_that_unicode_calls_a_sentence_terminal_ends_one() -> None:
    marks = regex.findall(r"\p{Sentence_Terminal}", "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x1F000)])))
    assert len(marks) > 150
    for mark in marks:
        assert split_sentences(f"क ख{mark}”  ग घ{mark} क") == [f"क ख{mark}”", f"ग घ{mark}", "क"], ascii(mark)


def test_long_lines_of_thai_and_lao_are_cut_at_spaces_and_short_ones_are_not() -> None:
    clause = "เขาเดินไปตลาดในตอนเช้าเพื่อซื้อปลาสดและผัก"
    assert split_sentences(f"{clause} {clause}\nสั้น ๆ") == [f"{clause} {clause}", "สั้น ๆ"]
    cut = split_sentences(" ".join([clause] * 7))
    assert cut == [" ".join([clause] * 3)] * 2 + [clause]
    latin = "a word and " * 40
    assert split_sentences(latin) == [latin.strip()]


def test_latin_text_is_cut_the_same_beside_a_line_of_another_script() -> None:
    for marked in MARKED:
        lines = split_sentences(marked.replace("|", "") + "\n終わり。\nयह।")
        assert lines[:-2] == [sentence.strip() for sentence in marked.split("|")]
