"""Words as model input: their pieces are those of transformers, and windows predict each word exactly once."""

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.inputs.words import encode_words, predicted_words, windows


def test_pieces_and_words_are_those_of_transformers(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [["the", "cat", "U.S.", "xyzzy"], ["Over"], ["it's", "北京", "e\u0301t\u00e9"]]
    for words, ours in zip(texts, encode_words(small_tokenizer, texts), strict=True):
        expected = theirs(words, is_split_into_words=True)
        assert ours.input_ids.tolist() == expected["input_ids"]
        assert ours.word_ids.tolist() == [-1 if word is None else word for word in expected.word_ids()]


def test_a_word_of_which_nothing_is_left_is_an_unknown_token(small_tokenizer):
    (found,) = encode_words(small_tokenizer, [["\ufe0f", "cat", "\u0301", "\x00"]])
    unknown, (cat,) = small_tokenizer.unk_id, small_tokenizer.encode(["cat"])[0].tolist()
    assert found.input_ids[1:-1].tolist() == [unknown, cat, unknown, unknown]
    assert found.word_ids.tolist() == [-1, 0, 1, 2, 3, -1]


def test_a_text_of_no_words_is_empty(small_tokenizer):
    assert encode_words(small_tokenizer, [[]])[0].is_empty


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(3, 40))
def test_windows_hold_whole_words_and_predict_each_once(small_tokenizer, pieces, max_length):
    words = ["ktb" * count for count in pieces]  # letters that the vocabulary has no longer pieces of
    (sequence,) = encode_words(small_tokenizer, [words])
    assert len(sequence) - 2 == 3 * sum(pieces)
    check_windows(sequence, len(words), max_length)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=40), st.integers(3, 24))
def test_no_word_of_any_script_is_skipped(small_tokenizer, words, max_length):
    (sequence,) = encode_words(small_tokenizer, [words])
    check_windows(sequence, len(words), max_length)


def check_windows(sequence, words, max_length):
    parts = windows(sequence, max_length)
    sizes = np.bincount(sequence.word_ids[1:-1], minlength=words)
    for part in parts:
        assert len(part) <= max_length
        assert part.special_tokens_mask.tolist() == [True, *[False] * (len(part) - 2), True]
        own = part.word_ids[1:-1]
        assert own.tolist() == sorted(own)
        for word in np.unique(own):  # a whole word, or the beginning of one that is longer than a window
            assert (own == word).sum() == min(sizes[word], max_length - 2)
            start = int(np.argmax(sequence.word_ids == word))
            place = int(np.argmax(part.word_ids == word))
            count = int((own == word).sum())
            assert (part.input_ids[place : place + count] == sequence.input_ids[start : start + count]).all()
    predicted = predicted_words(parts)
    assert sorted(int(word) for _, numbers in predicted for word in numbers) == list(range(words))
    for part, (places, numbers) in zip(parts, predicted, strict=True):
        assert part.word_ids[places].tolist() == numbers.tolist()
        assert (part.word_ids[places - 1] != numbers).all(), "the first piece of the word"
    assert all(len(numbers) for _, numbers in predicted), "no window is computed for nothing"


def test_a_word_is_predicted_where_it_has_the_most_context(small_tokenizer):
    (sequence,) = encode_words(small_tokenizer, [["cat"] * 100])
    parts = windows(sequence, 22)
    assert len(parts) == 7  # the first of 20 words, each other one of 15 new ones
    assert [int(part.word_ids[1]) for part in parts] == [0, 15, 30, 45, 60, 75, 90]
    for part, (places, _) in zip(parts[1:-1], predicted_words(parts)[1:-1], strict=True):
        context = np.minimum(places - 1, len(part) - 2 - places)
        assert context.min() >= 2


@pytest.mark.parametrize("max_length", [10, 11, 12])
def test_a_text_that_fits_is_one_window(small_tokenizer, max_length):
    (sequence,) = encode_words(small_tokenizer, [["cat"] * 8])
    assert windows(sequence, max_length) == [sequence]
