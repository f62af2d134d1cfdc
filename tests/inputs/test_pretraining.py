"""Batches against what their plan says, and against each other: the same number gives the same batch for ever."""

import numpy as np
import pytest

from bertwright.inputs.bucketing import WIDTH_STEP
from bertwright.inputs.masking import IGNORED_LABEL
from bertwright.inputs.pretraining import IS_NEXT, IS_RANDOM, PretrainBatch, PretrainStream
from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import MaskingConfig, Phase
from bertwright.tasks.pretraining import Pretraining
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer

COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label")


@pytest.fixture(scope="module")
def tokenizer(small_prepared) -> Tokenizer:
    return Tokenizer.load(small_prepared / "tokenizer")


@pytest.fixture(scope="module")
def corpus(small_prepared, tokenizer) -> PreparedCorpus:
    return PreparedCorpus(small_prepared / "train.arrow", tokenizer.fingerprint)


@pytest.fixture
def stream_of(corpus, tokenizer):
    def build(seed: int = 0, masking: MaskingConfig | None = None, **changes) -> PretrainStream:
        settings = {
            "sequence_length": 64,
            "next_sentence": True,
            "short_sequence_probability": 0.1,
            "sources": None,
            "seed": seed,
            **changes,
        }
        return PretrainStream(corpus, tokenizer, 8, masking or MaskingConfig(), **settings)

    return build


def assert_same(one: PretrainBatch, other: PretrainBatch) -> None:
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def restored(batch: PretrainBatch) -> np.ndarray:
    """The ids as they were before masking."""
    return np.where(batch.labels == IGNORED_LABEL, batch.input_ids, batch.labels)


def test_rows_are_the_plan_s_pairs_with_special_tokens_and_segments_in_place(stream_of, corpus, tokenizer):
    stream = stream_of()
    plan = stream.plan(0)
    tokens = np.concatenate([corpus.spans(np.array([0]), np.array([corpus.num_tokens]))[0]])
    for number in range(3):
        batch = stream.batch(number)
        ids = restored(batch)
        for row in range(8):
            i = number * 8 + row
            a = tokens[plan.first_start[i] :][: plan.first_length[i]].tolist()
            b = tokens[plan.second_start[i] :][: plan.second_length[i]].tolist()
            expected = [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
            padding = 64 - len(expected)
            assert ids[row].tolist() == expected + [tokenizer.pad_id] * padding
            assert batch.token_type_ids[row].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * padding
            assert batch.attention_mask[row].tolist() == [True] * len(expected) + [False] * padding
            assert batch.next_sentence_label[row] == (IS_RANDOM if plan.is_random[i] else IS_NEXT)


def test_labels_stand_only_where_a_token_was_chosen(stream_of, tokenizer):
    batch = stream_of(masking=MaskingConfig(rate=0.3)).batch(0)
    special = [tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id]
    ids = restored(batch)
    chosen = batch.labels != IGNORED_LABEL
    assert not np.isin(ids[chosen], special).any()
    assert (chosen.sum(1) == np.rint(0.3 * (~np.isin(ids, special)).sum(1))).all()


def test_batches_do_not_depend_on_what_was_asked_before(stream_of):
    forwards, alone = stream_of(), stream_of()
    batches = [forwards.batch(number) for number in range(40)]  # several epochs
    for number in (39, 0, 17):
        assert_same(alone.batch(number), batches[number])


def test_processes_cut_their_rows_out_of_one_global_batch(stream_of):
    stream = stream_of()
    number = len(stream.plan(0)) // 8  # the batch in which one epoch ends and the next begins
    whole = stream.batch(number)
    for rows in (slice(0, 3), slice(3, 8)):
        part = stream_of().batch(number, rows)
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(part, column), getattr(whole, column)[rows])


def test_masks_differ_between_epochs_and_seeds_but_not_between_equal_seeds(stream_of):
    stream = stream_of()
    epoch = len(stream.plan(0))

    def masked_rows(stream: PretrainStream, numbers: range) -> set[tuple[bytes, bytes]]:
        rows = set()
        for number in numbers:
            batch = stream.batch(number)
            ids = restored(batch)
            rows |= {(ids[i].tobytes(), (batch.labels[i] >= 0).tobytes()) for i in range(8)}
        return rows

    first = masked_rows(stream, range(epoch // 8))
    assert masked_rows(stream_of(), range(epoch // 8)) == first
    assert not masked_rows(stream, range(epoch // 8 + 1, 2 * epoch // 8)) & first
    assert not masked_rows(stream_of(seed=1), range(epoch // 8)) & first


def test_an_epoch_shows_every_token_of_the_corpus(stream_of, corpus):
    stream = stream_of()
    plan = stream.plan(0)
    seen = np.zeros(corpus.num_tokens, np.bool_)
    for start, length in ((plan.first_start, plan.first_length), (plan.second_start, plan.second_length)):
        for begin, n in zip(start, length, strict=True):
            seen[begin : begin + n] = True
    assert seen.all()


def test_sequences_of_a_batch_are_about_equally_long_and_batches_are_mixed(stream_of):
    stream = stream_of(short_sequence_probability=0.9)
    plan = stream.plan(0)
    lengths = (plan.first_length + plan.second_length)[: len(plan) // 8 * 8].reshape(-1, 8)
    drawn_one_by_one = np.random.default_rng(0).permutation(lengths.reshape(-1)).reshape(lengths.shape)
    assert np.ptp(lengths, axis=1).mean() < 0.25 * np.ptp(drawn_one_by_one, axis=1).mean()
    means = lengths.mean(1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.4, "neither from short to long nor the other way"


def test_an_epoch_that_begins_inside_a_batch_has_like_lengths_too(stream_of):
    stream = stream_of(short_sequence_probability=0.9)
    epoch = len(stream.plan(0))
    assert epoch % 8, "the second epoch begins inside a batch, or this test shows nothing"
    spreads = [np.ptp(stream.batch(n).attention_mask.sum(1)) for n in range(epoch // 8 + 1, epoch // 8 + 11)]
    ahead = [np.ptp(stream.batch(n).attention_mask.sum(1)) for n in range(10)]
    assert np.mean(spreads) < 1.5 * np.mean(ahead) + 1


def test_cutting_keeps_every_row_and_bounds_every_part(stream_of):
    batch = stream_of().batch(1)
    parts = batch.cut(128)
    assert len(parts) > 1
    rows = []
    for part in parts:
        width = part.input_ids.shape[1]
        assert part.input_ids.size <= 128 or len(part.input_ids) == 1
        assert width % WIDTH_STEP == 0
        assert part.attention_mask.any(0)[: width - WIDTH_STEP].all(), "no wider than its longest row needs"
        for i in range(len(part.input_ids)):
            pad = 64 - width
            rows.append(
                (
                    np.pad(part.input_ids[i], (0, pad)).tobytes(),
                    np.pad(part.labels[i], (0, pad), constant_values=IGNORED_LABEL).tobytes(),
                    np.pad(part.token_type_ids[i], (0, pad)).tobytes(),
                    int(part.next_sentence_label[i]),
                )
            )
    whole = [
        (
            np.where(batch.attention_mask[i], batch.input_ids[i], 0).tobytes(),
            batch.labels[i].tobytes(),
            batch.token_type_ids[i].tobytes(),
            int(batch.next_sentence_label[i]),
        )
        for i in range(8)
    ]
    assert sorted(rows) == sorted(whole)


def test_without_next_sentences_there_is_one_segment(stream_of):
    batch = stream_of(next_sentence=False).batch(0)
    assert not batch.token_type_ids.any()
    assert (batch.next_sentence_label == IGNORED_LABEL).all()


def test_without_masks_each_position_s_label_is_the_ordinary_token_after_it(stream_of, tokenizer):
    stream = stream_of(next_sentence=False)
    masked = stream.batch(0)
    stream.masking = None
    batch = stream.batch(0)
    np.testing.assert_array_equal(batch.input_ids, restored(masked))
    special = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    for ids, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        following = [*ids[1:], tokenizer.pad_id]
        assert labels == [IGNORED_LABEL if token in special else token for token in following]


def test_words_are_masked_whole(stream_of, tokenizer):
    batch = stream_of(masking=MaskingConfig(rate=0.3, unit="word")).batch(0)
    ids = restored(batch)
    chosen = batch.labels != IGNORED_LABEL
    continues = tokenizer.is_continuation[ids]
    # A sentence begins a new token run, so a ## entry always has its word's other part before it.
    assert continues[:, 1:].any()
    assert (chosen[:, 1:] == chosen[:, :-1])[continues[:, 1:]].all()


def test_phases_may_have_batches_of_their_own_and_do_not_repeat_each_other(small_recipe, corpus, tokenizer):
    phases = (
        Phase(sequence_length=32, budget_ratio=0.5, batch_tokens=256),
        Phase(sequence_length=32, budget_ratio=0.5),
    )
    recipe = small_recipe(pretrain={"phases": phases, "batch_tokens": 1024, "micro_batch_tokens": 1024})
    model = PretrainingModel(new_encoder(recipe.model, tokenizer.vocab_size))
    training = Pretraining(recipe, model, tokenizer, corpus, corpus)
    small, large = (training.micro_batches(phase, 0, 0, 1)[0]["input_ids"] for phase in (0, 1))
    assert (len(small), len(large)) == (8, 32)
    rows = [{tuple(row[row != 0].tolist()) for row in part} for part in (small, large)]
    assert len(rows[0] & rows[1]) < 4
