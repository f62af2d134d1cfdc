"""New words: which ones are added, counted by hand, and that nothing else changes."""

import random
from collections import Counter

import pytest
from transformers import BertTokenizerFast

from bertwright.recipe import TokenizerConfig
from bertwright.text.bert_tokenizer import SPECIAL_TOKENS, bert_tokenizer
from bertwright.text.new_words import pieces, with_new_words
from bertwright.text.wordpiece import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KNOWN = ["the", "patient", "has", "cardio", "##myo", "##path", "my", "##ing", "was"]
WORDS = [("cardiomyopathy", 20), ("myalgia", 9), ("qqz", 30), ("rare", 4), ("the", 50), ("patient", 50)]


@pytest.fixture(scope="module")
def tokenizer():
    entries = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *KNOWN]
    return Tokenizer(bert_tokenizer({entry: number for number, entry in enumerate(entries)}, True, None, True))


@pytest.fixture(scope="module")
def texts():
    words = [word for word, count in WORDS for _ in range(count)]
    random.Random(0).shuffle(words)
    return [" ".join(words[start : start + 10]) for start in range(0, len(words), 10)]


def said_of(tokenizer, texts, number):
    said = []
    return with_new_words(tokenizer, texts, number, said.append), said


def test_the_words_that_save_most_tokens_are_added_at_the_end(tokenizer, texts):
    grown, said = said_of(tokenizer, texts, 3)
    assert grown.tokens[: tokenizer.vocab_size] == tokenizer.tokens
    # cardio ##myo ##path ##y: 3 tokens saved, 20 times; q ##q ##z: 2, 30 times; my ##a ##l ##g ##i ##a: 5, 9 times.
    assert grown.tokens[tokenizer.vocab_size :] == ["cardiomyopathy", "qqz", "myalgia"]
    before, after = (sum(map(len, one.encode(texts))) for one in (tokenizer, grown))
    assert before - after == 3 * 20 + 2 * 30 + 5 * 9
    assert said == [
        "3 new words, such as cardiomyopathy, qqz, myalgia: the vocabulary grows from 66 to 69 entries, and a sample "
        f"of the texts is {after} tokens in place of {before}"
    ]


def test_words_that_are_there_or_rare_are_not_added_and_fewer_than_asked_for_are_said(tokenizer, texts):
    grown, said = said_of(tokenizer, texts, 100)
    added = grown.tokens[tokenizer.vocab_size :]
    assert {"the", "patient", "rare"}.isdisjoint(added)
    assert f"asks for 100, and the texts give {len(added)}" in said[0]
    # A second time there is nothing to find.
    again, said = said_of(grown, texts, 100)
    assert again is grown
    assert said == [
        "tokenizer.new_words asks for 100, and the texts give 0: all else that occurs 5 times is in the vocabulary "
        "already, or would save fewer than 5 tokens"
    ]


def test_a_word_of_unknown_letters_is_worth_more_than_its_letters(tokenizer):
    texts = ["the кот was the cardiomyopathy кот"] * 10
    grown, said = said_of(tokenizer, texts, 2)
    assert grown.tokens[-2:] == ["кот", "cardiomyopathy"]
    assert said[0].startswith(
        "1 of the new words have characters that the vocabulary lacks: their vectors all start as"
    )


def test_two_trainings_agree(tokenizer):
    generator = random.Random(1)
    words = ["".join(generator.choices("abcde", k=generator.randint(3, 6))) for _ in range(60)]
    texts = [" ".join(generator.choices(words, k=20)) for _ in range(200)]
    assert said_of(tokenizer, texts, 30)[0].tokens == said_of(tokenizer, reversed(texts), 30)[0].tokens


def test_line_breaks_of_html_are_no_word(tokenizer):
    one = Tokenizer(tokenizer.inner, html_line_breaks=True)
    texts = ["the qqz<br />the qqz<br />"] * 20
    assert said_of(one, texts, 5)[0].tokens[-1] == "qqz"
    assert "br" in said_of(tokenizer, texts, 5)[0].tokens


def test_transformers_reads_the_same_ids(tokenizer, texts, tmp_path):
    grown, _ = said_of(tokenizer, texts, 3)
    grown.save(tmp_path)
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    assert len(theirs) == grown.vocab_size
    for text, ids in zip(texts, grown.encode(texts), strict=True):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids.tolist()


@pytest.mark.parametrize("entry", ["cardiomyopathy", "myalgia", "the", "кот", "mяgia"])
def test_pieces_are_those_that_the_tokenizer_cuts(tokenizer, entry):
    assert pieces(entry, tokenizer.inner.get_vocab()) == tokenizer.encode([entry])[0].tolist()


def test_the_pieces_of_a_part_continue_a_word(tokenizer):
    vocabulary = tokenizer.inner.get_vocab()
    found = [tokenizer.tokens[i] for i in pieces("##myopathing", vocabulary)]
    assert found == ["##myo", "##path", "##ing"]


def test_savings_hold_against_a_count_over_all_single_words(tokenizer):
    """Where no candidate is a part of another, the best entries are those of a plain count."""
    generator = random.Random(2)
    words = {first * 2 + "".join(generator.choices("xyz", k=3)) for first in LETTERS}
    counts = Counter({word: generator.randint(6, 40) for word in sorted(words)})
    texts = [f"{word} " * count for word, count in counts.items()]
    grown, _ = said_of(tokenizer, texts, 10)
    cost = {word: (len(tokenizer.encode([word])[0]) - 1) * count for word, count in counts.items()}
    best = sorted(cost, key=lambda word: (-cost[word], word))[:10]
    assert grown.tokens[tokenizer.vocab_size :] == best
    assert TokenizerConfig().new_words == 0
