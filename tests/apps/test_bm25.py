"""BM25: what a word is, and scores as the formula has them."""

import sys
from collections import Counter

import numpy as np
import pytest

from bertwright.apps.bm25 import WordIndex, words
from bertwright.errors import UserError

TEXTS = ["The boat sank in May.", "the BOAT, the boat and the harbour", "Bread for the bakers", "!!!"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The BOAT's 2nd trip, snake_case", ["the", "boat", "s", "2nd", "trip", "snake_case"]),
        ("Straße und STRASSE", ["strasse", "und", "strasse"]),
        ("ｆｕｌｌ ﬁne", ["full", "fine"]),
        ("猫が walks", ["猫", "が", "walks"]),
        ("Это кот", ["это", "кот"]),
        (" ... ", []),
        ("हिन्दी की किताब", ["हिन्दी", "की", "किताब"]),  # vowel signs are no letters to Python
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("ที่นี่ ok", ["ที่", "นี่", "ok"]),
    ],
)
def test_words_are_runs_of_letters_with_their_marks_and_single_letters_where_spaces_are_not_put(text, expected):
    assert words(text) == expected


def bm25(query, texts, k1=1.5, b=0.75):
    """Lucene's formula in a plain loop."""
    counts = [Counter(words(text)) for text in texts]
    mean = sum(map(Counter.total, counts)) / len(texts)
    scores = []
    for one in counts:
        score = 0.0
        for word in words(query):
            df = sum(word in other for other in counts)
            idf = np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            score += idf * one[word] / (one[word] + k1 * (1 - b + b * one.total() / mean)) if df else 0
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["boat", "the boat of the bakers", "May 猫", "boat boat", "nothing known", "?"])
def test_scores_are_those_of_the_formula_also_when_read_again(query, tmp_path):
    index = WordIndex.build(TEXTS)
    assert index.scores(query).tolist() == pytest.approx(bm25(query, TEXTS), abs=1e-6)
    index.save(tmp_path / "bm25")
    again = WordIndex.load(tmp_path / "bm25")
    assert again.scores(query).tolist() == index.scores(query).tolist()


def test_texts_without_a_word_are_refused():
    with pytest.raises(UserError, match=r"no text has a letter or a digit.*leave out --hybrid"):
        WordIndex.build(["?", "!!!"])


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match=r"bm25s.*pip install 'bm25s"):
        WordIndex.build(TEXTS)
