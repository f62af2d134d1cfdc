"""Masking against the paper's rules, one position at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertwright.inputs.masking import IGNORED_LABEL, Vocabulary, mask_rest_of_words, mask_tokens
from bertwright.recipe import MaskingConfig

SPECIAL = 5  # ids 0 to 4: [PAD], [UNK], [CLS], [SEP], [MASK]
MASK = 4
SIZE = 1000
CONTINUES = np.arange(SIZE) % 3 == 0
CONTINUES[:SPECIAL] = False
VOCABULARY = Vocabulary(MASK, np.arange(SPECIAL, SIZE, dtype=np.int32), CONTINUES)


def batch(rng: np.random.Generator, rows: int, seq: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of [CLS] words [SEP] words [SEP] [PAD]..., and what may be masked."""
    ids = rng.integers(SPECIAL, SIZE, (rows, seq))
    maskable = np.ones((rows, seq), np.bool_)
    for row in range(rows):
        end = int(rng.integers(4, seq))
        for position, special in ((0, 2), (int(rng.integers(1, end)), 3), (end, 3)):
            ids[row, position] = special
            maskable[row, position] = False
        ids[row, end + 1 :] = 0
        maskable[row, end + 1 :] = False
    return ids, maskable


def words(ids: np.ndarray, maskable: np.ndarray) -> list[list[int]]:
    """The positions of each word of a row, by the plain rule: a ## entry belongs to the token before it."""
    found: list[list[int]] = []
    for position in range(len(ids)):
        if not maskable[position]:
            continue
        if CONTINUES[ids[position]] and position and maskable[position - 1]:
            found[-1].append(position)
        else:
            found.append([position])
    return found


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize("replacement", ["80-10-10", "mask"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rate=st.floats(0.01, 0.9))
def test_the_rules_hold_for_any_batch(unit, replacement, seed, rate):
    rng = np.random.default_rng(seed)
    ids, maskable = batch(rng, 4, 40)
    before = ids.copy()
    masked, chosen = mask_tokens(
        ids, maskable, MaskingConfig(rate=rate, replacement=replacement, unit=unit), VOCABULARY, rng
    )
    assert (ids == before).all(), "the input is left alone"
    assert not chosen[~maskable].any(), "special tokens and padding are never chosen"
    assert (masked[~chosen] == ids[~chosen]).all(), "what is not chosen is not changed"
    replaced = masked[chosen & (masked != ids)]
    assert ((replaced == MASK) | (replaced >= SPECIAL)).all(), "no special token but [MASK] is drawn"
    if replacement == "mask":
        assert (masked[chosen] == MASK).all()
    for row in range(4):
        n = maskable[row].sum()
        quota = max(1, round(rate * n)) if n else 0
        if unit == "token":
            assert chosen[row].sum() == quota
        else:
            groups = words(ids[row], maskable[row])
            for group in groups:
                assert len({bool(chosen[row, position]) for position in group}) == 1, "a word is masked whole"
            taken = chosen[row].sum()
            longest = max((len(group) for group in groups), default=0)
            assert taken >= 1 or n == 0
            # Past the quota only for a first word that is longer; short of it by less than the next word.
            assert taken <= max(quota, longest)
            assert taken > quota - longest


def test_chosen_tokens_become_mask_random_and_themselves_8_1_1():
    rng = np.random.default_rng(0)
    ids, maskable = batch(rng, 2000, 64)
    masked, chosen = mask_tokens(ids, maskable, MaskingConfig(rate=0.15), VOCABULARY, rng)
    n = chosen.sum()
    mask, same = (masked[chosen] == MASK).mean(), (masked[chosen] == ids[chosen]).mean()
    random = 1 - mask - same
    for fraction, expected in ((mask, 0.8), (random, 0.1 * (1 - 1 / 995)), (same, 0.1 * (1 + 1 / 995))):
        assert abs(fraction - expected) < 5 * np.sqrt(expected * (1 - expected) / n)


def test_random_replacements_are_uniform_over_the_ordinary_entries():
    rng = np.random.default_rng(1)
    ids, maskable = batch(rng, 20_000, 64)
    masked, chosen = mask_tokens(ids, maskable, MaskingConfig(rate=0.5), VOCABULARY, rng)
    drawn = masked[chosen & (masked != MASK) & (masked != ids)]
    counts = np.bincount(drawn, minlength=SIZE)
    assert counts[:SPECIAL].sum() == 0
    expected = len(drawn) / (SIZE - SPECIAL)
    statistic = ((counts[SPECIAL:] - expected) ** 2 / expected).sum()
    assert abs(statistic - 994) < 5 * np.sqrt(2 * 994)


@pytest.mark.parametrize("unit", ["token", "word"])
def test_every_position_is_chosen_equally_often(unit):
    rng = np.random.default_rng(2)
    ids = np.where(np.arange(40) % 4 == 3, 6, 7)[None].repeat(20_000, 0)  # words of one, one and two tokens
    maskable = np.ones_like(ids, np.bool_)
    _, chosen = mask_tokens(ids, maskable, MaskingConfig(rate=0.2, replacement="mask", unit=unit), VOCABULARY, rng)
    fraction = chosen.mean(0)
    # Words of two are chosen a little less often than single ones: they fit less often in what is left of the quota.
    assert fraction.max() - fraction.min() < (0.02 if unit == "token" else 0.05)


def test_the_same_state_of_chance_gives_the_same_masks_and_another_one_others():
    ids, maskable = batch(np.random.default_rng(3), 8, 64)
    config = MaskingConfig(rate=0.15)
    once, again, other = (mask_tokens(ids, maskable, config, VOCABULARY, np.random.default_rng(s)) for s in (7, 7, 8))
    assert (once[0] == again[0]).all()
    assert (once[1] == again[1]).all()
    assert (once[1] != other[1]).any()


def test_a_row_without_maskable_tokens_is_unchanged():
    ids = np.array([[2, 3, 3, 0]])
    masked, chosen = mask_tokens(
        ids, np.zeros_like(ids, np.bool_), MaskingConfig(), VOCABULARY, np.random.default_rng(0)
    )
    assert (masked == ids).all()
    assert not chosen.any()


def test_the_rest_of_a_masked_word_is_masked_without_a_prediction():
    # Words of entries 10 to 13, of which 11 to 13 continue one; 4 is [MASK]. The first word has three pieces.
    vocabulary = Vocabulary(4, np.array([10, 11, 12, 13], np.int32), np.arange(14) > 10)
    ids = np.array([[2, 10, 4, 12, 10, 10, 4, 4, 10, 11, 3], [2, 4, 11, 12, 13, 4, 10, 11, 3, 0, 0]])
    labels = np.full_like(ids, IGNORED_LABEL)
    labels[0, [2, 6, 7]] = [11, 12, 13]  # the last two in one word: the second is not predicted
    labels[1, [1, 5]] = [10, 10]
    masked, left = mask_rest_of_words(ids, labels, vocabulary)
    assert masked.tolist() == [[2, 10, 4, 4, 10, 10, 4, 4, 10, 11, 3], [2, 4, 4, 4, 4, 4, 10, 11, 3, 0, 0]]
    assert np.argwhere(left != IGNORED_LABEL).tolist() == [[0, 2], [0, 6], [1, 1], [1, 5]]
    assert left[left != IGNORED_LABEL].tolist() == [11, 12, 10, 10]
