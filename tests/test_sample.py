"""What `sample/README.md` and the issue promise of the bundled texts."""

import collections
import json
import re

import pytest


@pytest.fixture(scope="module")
def reviews(sample) -> dict[str, list[dict]]:
    return {
        split: [json.loads(line) for line in (sample / "reviews" / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in ("train", "test")
    }


def test_there_are_enough_stories_and_essays_and_no_two_alike(sample):
    documents = [path.read_text("utf-8") for path in sorted((sample / "books").glob("*.txt"))]
    assert len(documents) >= 60
    assert sum(len(text.split()) for text in documents) >= 30_000
    titles = [text.splitlines()[0] for text in documents]
    assert len(set(titles)) == len(titles)
    assert_no_text_is_built_from_another(documents, 12)


def test_there_are_two_hundred_reviews_to_train_on_and_two_hundred_to_test_half_of_them_positive(reviews):
    for rows in reviews.values():
        assert len(rows) == 200
        assert sum(row["label"] for row in rows) == 100
        assert all(30 <= len(row["text"].split()) <= 100 for row in rows)
    everything = [row for rows in reviews.values() for row in rows]
    assert len({row["id"] for row in everything}) == 400
    assert_no_text_is_built_from_another([row["text"] for row in everything], 8)


def assert_no_text_is_built_from_another(texts: list[str], words: int) -> None:
    """No run of that many words stands in two texts: that is what templates leave behind."""
    home: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(texts):
        tokens = re.findall(r"[a-z']+", text.lower())
        for start in range(len(tokens) - words + 1):
            run = tuple(tokens[start : start + words])
            assert home.setdefault(run, number) == number, " ".join(run)


def test_reviews_do_not_open_alike(reviews):
    openings = collections.Counter(
        " ".join(row["text"].split()[:3]).lower() for rows in reviews.values() for row in rows
    )
    assert openings.most_common(1)[0][1] <= 6


def test_a_label_is_not_a_matter_of_single_words(reviews):
    """Word counts do better than chance, and far from perfectly."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    counts = CountVectorizer()
    x = counts.fit_transform([row["text"] for row in reviews["train"]])
    model = MultinomialNB().fit(x, [row["label"] for row in reviews["train"]])
    test = counts.transform([row["text"] for row in reviews["test"]])
    accuracy = (model.predict(test) == [row["label"] for row in reviews["test"]]).mean()
    assert 0.5 < accuracy < 0.9
