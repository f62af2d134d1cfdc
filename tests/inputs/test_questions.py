"""Questions with their contexts: every token in a window, and places that are those of the text that was given."""

import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.inputs.questions import answer_in_windows, context_tokens, encode_questions, windows
from bertwright.recipe import TokenizerConfig
from bertwright.text.bert_tokenizer import SPECIAL_TOKENS, bert_tokenizer
from bertwright.text.wordpiece import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer_of(strip_accents, html_line_breaks=False):
    """Words are cut into single letters, so that a place that is off by one shows."""
    entries = [
        *SPECIAL_TOKENS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        "é",
        "##é",
        "日",
        "?",
        "##?",
        "가",
        "ᄀ",
        "##ᅡ",
    ]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    return Tokenizer(bert_tokenizer(vocabulary, True, strip_accents, True), html_line_breaks)


TOKENIZERS = [tokenizer_of(None), tokenizer_of(False), tokenizer_of(None, html_line_breaks=True)]
pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["<br />", "<BR>", "é", "e\u0301", "\ud83d", "日本", "가", "\u200d", "\u0000", "ﬁ", "İ", "👩‍🚀", "  ", "\n"]
    ),
    st.text(alphabet=LETTERS + " ", max_size=12),
)
texts = st.lists(pieces, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TOKENIZERS), texts, texts, st.integers(8, 40))
@pytest.mark.slow
def test_every_token_of_a_context_is_in_a_window_and_has_its_place_in_the_text_that_was_given(
    tokenizer, question, context, max_length
):
    (found,) = encode_questions(tokenizer, [question], [context], max_length)
    parts = windows(found, max_length)
    whole = found.sequence
    all_places = whole.offsets[context_tokens(whole)]
    assert (all_places[:, 0] <= all_places[:, 1]).all()
    assert (np.diff(all_places[:, 0]) >= 0).all()
    assert all(0 <= place <= len(context) for place in all_places.ravel())
    covered = []
    for part in parts:
        assert len(part) <= max_length
        inside = context_tokens(part)
        head = len(part) - inside.sum() - 1
        assert (part.input_ids[:head] == whole.input_ids[:head]).all(), "the whole question, in each window"
        covered += list(zip(part.input_ids[inside].tolist(), map(tuple, part.offsets[inside].tolist()), strict=True))
    expected = list(zip(whole.input_ids[context_tokens(whole)].tolist(), map(tuple, all_places.tolist()), strict=True))
    assert set(covered) == set(expected)
    assert len(parts) == 1 or len(covered) > len(expected), "windows overlap"
    # A token's characters, read alone, are that token: accents and breaks included.
    for token, (begin, end) in expected:
        name = tokenizer.tokens[token]
        if name not in SPECIAL_TOKENS and name.removeprefix("##") in LETTERS:
            cut = context[begin:end]
            alone = tokenizer.encode([tokenizer.clean(cut)])[0]
            assert any(tokenizer.tokens[one].removeprefix("##") == name.removeprefix("##") for one in alone), (
                cut,
                name,
            )


def test_a_token_at_the_border_of_a_window_stands_further_inside_of_another_one():
    (found,) = encode_questions(TOKENIZERS[0], ["who"], ["a b c d e f g h i j " * 60], 64)
    parts = windows(found, 64)
    context = {}
    for part in parts:
        places = np.flatnonzero(context_tokens(part))
        for number, place in enumerate(places):
            own = min(number, len(places) - 1 - number)
            begin = int(part.offsets[place, 0])
            context[begin] = max(own, context.get(begin, 0))
    assert len(context) == 600
    overlap = 64 // 2 - 3  # the half of what is left beside the question
    assert min(context[begin] for begin in range(60, 1140, 2)) >= overlap // 2


def test_a_long_question_is_cut_and_the_context_is_not():
    (found,) = encode_questions(TOKENIZERS[0], ["a " * 100], ["b " * 10], 40)
    assert found.left_out == 100 - (40 - 3) // 2
    assert context_tokens(found.sequence).sum() == 10
    assert encode_questions(TOKENIZERS[0], ["a " * 100], ["b"], 384)[0].left_out == 36
    assert encode_questions(TOKENIZERS[0], ["a " * 64], ["b"], 384)[0].left_out == 0


@pytest.mark.parametrize(("question", "context"), [("", "a"), ("a", ""), ("\u200d", "a"), ("a", " \n")])
def test_without_a_token_of_either_there_is_nothing_to_read(question, context):
    (found,) = encode_questions(TOKENIZERS[0], [question], [context], 40)
    assert found.is_empty
    assert len(windows(found, 40)) == 1
    assert not encode_questions(TOKENIZERS[0], ["a"], ["b"], 40)[0].is_empty


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TOKENIZERS), texts, st.integers(8, 24), st.data())
@pytest.mark.slow
def test_an_answer_is_found_in_each_window_that_has_all_of_it(tokenizer, context, max_length, data):
    (found,) = encode_questions(tokenizer, ["who"], [context], max_length)
    start = data.draw(st.integers(0, max(0, len(context) - 1)))
    end = data.draw(st.integers(start + 1, max(start + 1, min(len(context), start + 6))))
    whole = found.sequence
    own = {
        place
        for place in np.flatnonzero(context_tokens(whole))
        if whole.offsets[place, 0] < end and whole.offsets[place, 1] > start
    }
    marked = answer_in_windows(found, max_length, start, end)
    if not own:
        assert marked is None
        return
    tokens = whole.input_ids[min(own) : max(own) + 1].tolist()
    for part, place in zip(windows(found, max_length), marked, strict=True):
        if place is not None:
            first, last = place
            assert part.input_ids[first : last + 1].tolist() == tokens
            assert part.offsets[first, 0] == whole.offsets[min(own), 0]
            assert part.offsets[last, 1] == whole.offsets[max(own), 1]
    if len(tokens) == 1:
        assert any(place is not None for place in marked)


def byte_bpe_of():
    """Bytes as ModernBERT reads them: NFC makes one character of a letter and its marks."""
    config = TokenizerConfig(type="byte_bpe", vocab_size=300, min_frequency=1, lowercase=False)
    trained = Tokenizer.train(["a few words"], config)
    trained.inner.normalizer = tokenizers.normalizers.NFC()
    return Tokenizer(trained.inner)


@pytest.mark.parametrize("tokenizer", [TOKENIZERS[0], TOKENIZERS[2], byte_bpe_of()], ids=["wordpiece", "html", "bytes"])
@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        ("the ", "cafe\u0301", " is open"),
        ("the ", "cafe\u0301", "<br />next"),
        ("the ", "cafe\u0301\u0323", ", which"),
        ("x ", unicodedata.normalize("NFD", "한국"), " y"),
        ("", "كتابً", ""),
        ("i ", "❤\ufe0f", " you"),
        ("a ", "1\ufe0f\u20e3", " b"),
        ("a ", "🏴\U000e0067\U000e0062\U000e007f", " b"),
        ("in ", "Paris", "\u200b and"),
        ("in ", "Paris", "\ufeff"),
        ("in ", "Paris", " \u0301x"),
        ("", "é", "e\u0301"),
    ],
)
def test_the_tokens_of_an_answer_give_it_back_to_the_letter(tokenizer, before, answer, after):
    context = before + answer + after
    (found,) = encode_questions(tokenizer, ["who"], [context], None)
    ((first, last),) = answer_in_windows(found, 400, len(before), len(before) + len(answer))
    places = found.sequence.offsets
    assert context[places[first, 0] : places[last, 1]] == answer
