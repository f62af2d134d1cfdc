"""Next-sentence pairs: what a plan promises, checked sequence by sequence on corpora of every shape."""

import hashlib
import tempfile
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score

from bertwright.errors import UserError
from bertwright.inputs import next_sentence as planning
from bertwright.inputs.next_sentence import Plan, plan_epoch
from bertwright.text.store import PreparedCorpus

from .conftest import write_corpus


def document_of_position(documents: list[list[int]]) -> np.ndarray:
    return np.repeat(np.arange(len(documents)), [sum(lengths) for lengths in documents])


@pytest.fixture(params=["one block", "several blocks"])
def blocks(request, monkeypatch) -> str:
    """Plans in one block, and in blocks of some 100 sentences."""
    if request.param == "several blocks":
        monkeypatch.setattr(planning, "BLOCK_SENTENCES", 100)
    return str(request.param)


def check_promises(corpus: PreparedCorpus, documents: list[list[int]], plan: Plan, sequence_length: int) -> None:
    """Everything that holds for each pair, whatever the corpus."""
    home = document_of_position(documents)
    seen = np.zeros(len(home), np.bool_)
    a_end = plan.first_start + plan.first_length
    b_end = plan.second_start + plan.second_length
    assert (plan.first_length >= 1).all()
    assert (plan.second_length >= 1).all()
    assert (plan.first_length + plan.second_length + 3 <= sequence_length).all()
    for i in range(len(plan)):
        a, b = home[plan.first_start[i] : a_end[i]], home[plan.second_start[i] : b_end[i]]
        assert len(set(a)) == 1, "A stays in one document"
        assert len(set(b)) == 1, "B stays in one document"
        if plan.is_random[i]:
            assert a[0] != b[0], "a random B comes from another document"
        else:
            assert plan.second_start[i] == a_end[i], "a true B begins where A ends"
            assert a[0] == b[0]
        seen[plan.first_start[i] : a_end[i]] = True
        seen[plan.second_start[i] : b_end[i]] = True
    assert seen.all(), "no token is lost"


def seen_without_borrowed(corpus: PreparedCorpus, plan: Plan) -> np.ndarray:
    """How often each token stands in an A or a true B."""
    times = np.zeros(corpus.num_tokens + 1, np.int64)
    np.add.at(times, plan.first_start, 1)
    np.add.at(times, plan.first_start + plan.first_length, -1)
    true = ~plan.is_random
    np.add.at(times, plan.second_start[true], 1)
    np.add.at(times, (plan.second_start + plan.second_length)[true], -1)
    return np.cumsum(times)[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("sequence_length", [16, 64, 128, 512])
def test_every_pair_keeps_its_promises(corpus_of, varied_lengths, sequence_length, blocks):
    corpus = corpus_of(varied_lengths)
    for epoch in range(2):
        plan = plan_epoch(corpus, sequence_length=sequence_length, seed=1, epoch=epoch)
        check_promises(corpus, varied_lengths, plan, sequence_length)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    documents=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=2, max_size=8),
    sequence_length=st.integers(8, 70),
    seed=st.integers(0, 1000),
    block=st.sampled_from([1, 7, 30, planning.BLOCK_SENTENCES]),
)
def test_promises_hold_for_any_corpus(documents, sequence_length, seed, block):
    with tempfile.TemporaryDirectory() as folder, patch.object(planning, "BLOCK_SENTENCES", block):
        corpus = write_corpus(Path(folder) / "corpus.arrow", documents)
        plan = plan_epoch(corpus, sequence_length=sequence_length, seed=seed, epoch=0)
        check_promises(corpus, documents, plan, sequence_length)


def test_segments_are_whole_sentences(corpus_of):
    rng = np.random.default_rng(3)
    documents = [[int(n) for n in rng.integers(1, 25, 30)] for _ in range(40)]
    corpus = corpus_of(documents)
    edges = set(np.concatenate([[0], np.cumsum([n for lengths in documents for n in lengths])]).tolist())
    plan = plan_epoch(corpus, sequence_length=64, seed=0, epoch=0)
    ends = plan.second_start + plan.second_length
    assert set(plan.first_start.tolist()) <= edges
    assert set((plan.first_start + plan.first_length).tolist()) <= edges
    assert set(plan.second_start.tolist()) <= edges
    assert {int(end) for end, borrowed in zip(ends, plan.is_random, strict=True) if not borrowed} <= edges
    cut = np.mean([int(end) not in edges for end in ends[plan.is_random]])
    assert cut < 0.02, "a borrowed B is cut only where none of its draws fits"


@pytest.mark.slow
def test_labels_are_a_fair_coin_whatever_the_documents(corpus_of, varied_lengths, blocks):
    short = [[4, 5]] * 3000
    for documents in (varied_lengths, short, [[7]] * 3000):
        plan = plan_epoch(corpus_of(documents), sequence_length=64, seed=0, epoch=0)
        # Five standard deviations; where a document is a pair of sentences, a random start leaves the rest to a second
        # coin, so that the coin is tossed per pair and not per document.
        assert abs(plan.is_random.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(plan))


@pytest.mark.parametrize(("sentences", "bound"), [((2, 40), 0.53), ((100, 300), 0.52)])
def test_lengths_hardly_give_the_label_away(corpus_of, sentences, bound):
    """What a model could score from lengths alone: 0.5 is nothing."""
    rng = np.random.default_rng(5)
    count = 60_000 // sum(sentences)
    documents = [[int(n) for n in rng.integers(4, 30, rng.integers(*sentences))] for _ in range(count)]
    plan = plan_epoch(corpus_of(documents), sequence_length=128, seed=0, epoch=0)
    lengths = np.stack([plan.first_length, plan.second_length], axis=1)
    baseline = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    assert cross_val_score(baseline, lengths, plan.is_random, cv=3).mean() < bound


def test_each_token_stands_once_in_its_own_document_or_twice_where_a_last_sentence_was_alone(corpus_of):
    rng = np.random.default_rng(8)
    documents = [[int(n) for n in rng.integers(3, 20, 60)] for _ in range(60)]
    corpus = corpus_of(documents)
    times = seen_without_borrowed(corpus, plan_epoch(corpus, sequence_length=64, seed=0, epoch=0))
    assert times.min() == 1
    assert times.max() <= 2
    assert times.mean() < 1.05


def test_most_sequences_are_full_and_a_tenth_are_short(corpus_of):
    rng = np.random.default_rng(2)
    documents = [[int(n) for n in rng.integers(5, 20, 400)] for _ in range(30)]
    corpus = corpus_of(documents)
    plain = plan_epoch(corpus, sequence_length=128, seed=0, epoch=0, short_sequence_probability=0.0)
    short = plan_epoch(corpus, sequence_length=128, seed=0, epoch=0, short_sequence_probability=0.1)
    true_plain = (plain.first_length + plain.second_length)[~plain.is_random]
    true_short = (short.first_length + short.second_length)[~short.is_random]
    assert np.mean(true_plain < 100) < 0.07
    assert 0.04 < np.mean(true_short < 100) - np.mean(true_plain < 100) < 0.12


@pytest.mark.slow
def test_a_plan_is_a_function_of_seed_and_epoch(corpus_of, varied_lengths, blocks):
    corpus = corpus_of(varied_lengths)

    def starts(seed: int, epoch: int) -> list[int]:
        return plan_epoch(corpus, sequence_length=64, seed=seed, epoch=epoch).first_start.tolist()

    assert starts(0, 0) == starts(0, 0)
    assert starts(0, 0) != starts(0, 1)
    assert starts(0, 0) != starts(1, 0)


@pytest.mark.parametrize(
    ("next_sentence", "size", "digest"), [(True, 4281, "e6582ba14798f217"), (False, 3519, "ba0fdff68399b470")]
)
def test_a_corpus_of_one_block_keeps_the_plan_of_earlier_versions(
    corpus_of, varied_lengths, next_sentence, size, digest
):
    # The digests are those of version 0.1.0, which had no blocks: published results are reproduced from their seeds.
    plan = plan_epoch(corpus_of(varied_lengths), sequence_length=64, seed=3, epoch=2, next_sentence=next_sentence)
    columns = [plan.first_start, plan.first_length, plan.second_start, plan.second_length, plan.is_random]
    assert len(plan) == size
    assert hashlib.sha256(np.stack(columns).astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_blocks_are_spread_over_the_corpus_and_shuffled_together(corpus_of, monkeypatch):
    documents = [[10] * 20 for _ in range(60)]
    corpus = corpus_of(documents)
    monkeypatch.setattr(planning, "BLOCK_SENTENCES", 240)  # five blocks of twelve documents
    plan = plan_epoch(corpus, sequence_length=64, seed=0, epoch=0)
    home = document_of_position(documents)
    block = home[plan.first_start] % 5
    partner = home[plan.second_start[plan.is_random]]
    assert (partner % 5 == block[plan.is_random]).all(), "a random B comes from a document of the same block"
    assert len(set(partner)) > 50
    assert set(np.bincount(block[: len(plan) // 4], minlength=5) > len(plan) // 40) == {True}


def test_blocks_have_random_numbers_of_their_own(corpus_of, monkeypatch):
    # Documents alike: with the same numbers, blocks would be planned alike.
    corpus = corpus_of([[10] * 20 for _ in range(60)])
    monkeypatch.setattr(planning, "BLOCK_SENTENCES", 600)
    plan = plan_epoch(corpus, sequence_length=64, seed=0, epoch=0)
    in_second = (plan.first_start // 200) % 2 == 1
    first, second = plan.take(np.flatnonzero(~in_second)), plan.take(np.flatnonzero(in_second))
    assert sorted(first.first_start.tolist()) != sorted((second.first_start - 200).tolist())


@pytest.mark.slow
def test_planning_needs_memory_for_the_plan_and_one_block(corpus_of, monkeypatch):
    rng = np.random.default_rng(4)
    documents = [rng.integers(5, 20, 100).tolist() for _ in range(1000)]
    corpus = corpus_of(documents)
    peaks = []
    for block in (planning.BLOCK_SENTENCES, 5_000):
        monkeypatch.setattr(planning, "BLOCK_SENTENCES", block)
        tracemalloc.start()
        plan = plan_epoch(corpus, sequence_length=128, seed=0, epoch=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = sum(getattr(plan, name).nbytes for name in vars(plan))
    assert size == 25 * len(plan)
    # The order of 4 bytes, and a column in the new order; the block of 5,000 sentences.
    assert peaks[1] < size * 37 / 25 + 60 * 5_000
    assert peaks[1] < 0.7 * peaks[0]


def test_a_plan_can_be_put_into_another_order_in_place(corpus_of, varied_lengths):
    plan = plan_epoch(corpus_of(varied_lengths), sequence_length=64, seed=0, epoch=0)
    order = np.random.default_rng(1).permutation(len(plan))
    expected = plan.take(order)
    plan.reorder(order)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(plan, name), values)


def test_random_partners_are_drawn_from_the_whole_corpus(corpus_of):
    documents = [[10] * 20 for _ in range(50)]
    corpus = corpus_of(documents)
    home = document_of_position(documents)
    partners = np.concatenate(
        [
            home[plan.second_start[plan.is_random]]
            for plan in (plan_epoch(corpus, sequence_length=64, seed=0, epoch=epoch) for epoch in range(10))
        ]
    )
    counts = np.bincount(partners, minlength=50)
    expected = len(partners) / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 5 * np.sqrt(2 * 49)  # chi squared, five deviations


def test_a_single_document_is_refused_by_name(corpus_of):
    corpus = corpus_of([[5] * 40])
    with pytest.raises(UserError, match=r"needs at least two documents.*next_sentence false"):
        plan_epoch(corpus, sequence_length=64, seed=0, epoch=0)
    assert len(plan_epoch(corpus, sequence_length=64, seed=0, epoch=0, next_sentence=False)) > 0


def test_a_source_without_documents_is_refused(corpus_of):
    corpus = corpus_of([[5, 5], [5, 5]], sources=["books", "books"])
    with pytest.raises(UserError, match="no document"):
        plan_epoch(corpus, sequence_length=64, seed=0, epoch=0, sources=("imdb:train",))


def test_chosen_sources_alone_are_read(corpus_of):
    documents = [[6, 7, 8]] * 20
    corpus = corpus_of(documents, sources=["books", "imdb:train"] * 10)
    home = document_of_position(documents)
    plan = plan_epoch(corpus, sequence_length=64, seed=0, epoch=0, sources=("imdb:train",))
    assert set(home[plan.first_start] % 2) == {1}
    assert set(home[plan.second_start] % 2) == {1}
    seen = {int(home[start]) for start in plan.first_start}
    assert seen == set(range(1, 20, 2))


@pytest.mark.parametrize("sequence_length", [16, 128])
def test_without_next_sentences_each_token_stands_exactly_once(corpus_of, varied_lengths, sequence_length, blocks):
    corpus = corpus_of(varied_lengths)
    plan = plan_epoch(corpus, sequence_length=sequence_length, seed=0, epoch=0, next_sentence=False)
    assert not plan.second_length.any()
    assert not plan.is_random.any()
    assert (plan.first_length + 2 <= sequence_length).all()
    order = np.argsort(plan.first_start)
    starts, ends = plan.first_start[order], (plan.first_start + plan.first_length)[order]
    assert starts[0] == 0
    assert (starts[1:] == ends[:-1]).all()
    assert ends[-1] == corpus.num_tokens
    home = document_of_position(varied_lengths)
    assert (home[starts] == home[ends - 1]).all()
