"""The data and the figures of the benchmark on rewritten reviews."""

import json
import lzma

import numpy as np
import pytest

import counterfactual
from bertwright.errors import UserError


@pytest.fixture
def sources(tmp_path):
    """Six reviews, two of which are originals of pairs, and the pairs."""
    imdb, pairs = tmp_path / "imdb", tmp_path / "pairs"
    reviews = [{"id": n, "rating": 9 if n % 2 else 2, "label": n % 2, "text": f"Review {n}.\x85"} for n in range(6)]
    write(imdb / "train.jsonl.xz", reviews)
    write(pairs / "test_orig.jsonl.xz", [{"text": f"Review {n}.", "label": label(n), "pair": n} for n in (0, 3)])
    write(pairs / "test_new.jsonl.xz", [{"text": f"New {n}.", "label": label(n + 1), "pair": n} for n in (3, 0)])
    (pairs / "imdb_ids_to_exclude.txt").write_text("train/neg/0_2\ntrain/pos/3_9\ntest/pos/1_9\n")
    return imdb, pairs


def label(number):
    return counterfactual.LABELS[number % 2]


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_originals_are_left_out_of_train_and_pairs_stand_in_one_order(sources, tmp_path):
    counts = counterfactual.write_data(*sources, tmp_path / "data", None)
    assert counts == {"left_out": 2, "train": 4, "pairs": 2}
    train, test = (rows_of(tmp_path / "data" / f"{name}.jsonl") for name in ("train", "test"))
    assert [row["text"] for row in train] == [f"Review {n}.\x85" for n in (1, 2, 4, 5)]
    assert [row["label"] for row in train] == ["positive", "negative", "negative", "positive"]
    assert [(row["text"], row["pair"]) for row in test] == [
        ("Review 0.", "pair-0"), ("Review 3.", "pair-3"), ("New 0.", "pair-0"), ("New 3.", "pair-3")
    ]  # fmt: skip
    assert counterfactual.write_data(*sources, tmp_path / "data", 3)["train"] == 3


def test_ids_that_fit_no_review_and_lone_halves_are_refused(sources, tmp_path):
    imdb, pairs = sources
    (pairs / "imdb_ids_to_exclude.txt").write_text("train/neg/7_2\n")
    with pytest.raises(UserError, match="1 ids of train are to be left out, and 0 were found"):
        counterfactual.write_data(imdb, pairs, tmp_path / "data", None)
    (pairs / "imdb_ids_to_exclude.txt").write_text("")
    write(pairs / "test_new.jsonl.xz", [{"text": "New.", "label": "positive", "pair": 9}] * 2)
    with pytest.raises(UserError, match="do not hold the same pairs"):
        counterfactual.write_data(imdb, pairs, tmp_path / "data", None)


def test_figures_are_means_over_pairs_with_intervals_of_their_size():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 800)
    right = generator.random(800) < np.repeat([0.9, 0.7], 400)
    found = counterfactual.right_of(np.eye(2)[np.where(right, labels, 1 - labels)], labels)
    assert found["originals"].mean() == right[:400].mean()
    assert found["both"].mean() == (right[:400] & right[400:]).mean()
    one = counterfactual.measured([found])["rewrites"]
    assert one["mean"] == right[400:].mean()
    spread = 1.96 * np.sqrt(one["mean"] * (1 - one["mean"]) / 400)  # of the binomial
    assert (one["mean"] - one["low"], one["high"] - one["mean"]) == pytest.approx((spread, spread), rel=0.15)
    apart = counterfactual.measured([found], counterfactual.right_of(np.eye(2)[labels], labels))
    assert apart["originals"]["mean"] == pytest.approx(right[:400].mean() - 1)
    assert apart["both"]["high"] < 0
