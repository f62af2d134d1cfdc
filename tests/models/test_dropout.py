"""Dropout's random numbers are a hash of the project's own: rate, scale, independence, and the seed they depend on."""

import math

import numpy as np
import pytest
import torch

from bertwright.models import dropout as module
from bertwright.models.dropout import Dropout, draw_seed, dropout, hashed, kept, threshold_of

ROWS, COLUMNS = 1024, 512
COUNT = ROWS * COLUMNS


def dropped(probability: float, seed: int, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> torch.Tensor:
    """The elements that are set to zero, float64 0 or 1."""
    torch.manual_seed(seed)
    return (dropout(torch.ones(shape), probability, training=True) == 0).double()


def assert_mean(values: torch.Tensor, expected: float, what: str) -> None:
    """The mean of independent zeros and ones lies within five standard deviations of what it should be."""
    deviation = math.sqrt(expected * (1 - expected) / values.numel())
    assert abs(values.mean().item() - expected) < 5 * deviation, what


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_the_one_asked_for_in_every_part_of_the_tensor(probability):
    zeros = dropped(probability, 0)
    assert_mean(zeros, probability, "all elements")
    for name, parts in (("row", zeros), ("column", zeros.T)):
        for number in range(0, len(parts), 64):
            assert_mean(parts[number], probability, f"{name} {number}")
    counts = zeros.sum(1)  # of each row: as spread as those of coins, neither even nor in lumps
    expected = COLUMNS * probability * (1 - probability)
    assert counts.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / ROWS) + 0.05)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_kept_elements_are_scaled_so_that_the_mean_stays(probability):
    torch.manual_seed(0)
    values = torch.randn(ROWS, COLUMNS) + 3
    found = dropout(values, probability, training=True)
    kept = found != 0
    torch.testing.assert_close(found[kept], values[kept] / (1 - probability))
    assert found.mean().item() == pytest.approx(values.mean().item(), rel=0.01)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_elements_are_dropped_independently_of_each_other(probability):
    for seed in range(3):
        zeros = dropped(probability, seed).flatten()
        for distance in (1, 2, 3, 4, 7, 8, 16, 64, 256, COLUMNS, 2 * COLUMNS, 64 * COLUMNS, COUNT // 2):
            both = zeros[distance:] * zeros[:-distance]
            assert_mean(both, probability**2, f"seed {seed}, distance {distance}")


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_one_call_s_elements_are_independent_of_the_next_call_s(probability):
    torch.manual_seed(0)
    calls = [(dropout(torch.ones(COUNT), probability, training=True) == 0).double() for _ in range(5)]
    for first in range(5):
        for second in range(first):
            assert_mean(calls[first] * calls[second], probability**2, f"calls {second} and {first}")


def test_dropout_is_a_function_of_the_seed():
    assert torch.equal(dropped(0.1, 7), dropped(0.1, 7))
    assert not torch.equal(dropped(0.1, 7), dropped(0.1, 8))


def murmur(value: int) -> int:
    """MurmurHash3's finalizer (Appleby's `fmix32`) without its last line, in whole numbers; the result has a sign."""
    value ^= value >> 16
    value = value * 0x85EBCA6B % 2**32
    value ^= value >> 13
    value = value * 0xC2B2AE35 % 2**32
    return value - 2**32 if value >= 2**31 else value


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24, 100])
def test_elements_that_are_hashed_in_parts_are_those_that_are_hashed_at_once(monkeypatch, count):
    seed = torch.tensor([-1_234_567_891], dtype=torch.int32)
    monkeypatch.setattr(module, "_IN_CACHE", 8)
    indices = torch.arange(count, dtype=torch.int32)
    assert torch.equal(kept(count, seed, 30_000), hashed(indices ^ seed) >= 30_000)


def test_the_hash_is_that_of_murmur_for_numbers_of_any_sign():
    edges = [0, 1, 2**16, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
    values = edges + np.random.default_rng(0).integers(0, 2**32, 2_000).tolist()
    given = torch.from_numpy(np.array(values, np.uint32).view(np.int32))
    assert hashed(given).tolist() == [murmur(value) for value in values]


@pytest.mark.parametrize(
    ("probability", "threshold"), [(0, -(2**31)), (0.25, -(2**30)), (0.5, 0), (1 - 1e-12, 2**31 - 1)]
)
def test_the_threshold_of_a_probability_has_that_part_of_all_numbers_below_it(probability, threshold):
    assert threshold_of(probability) == threshold


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_elements_at_a_distance_of_any_power_of_two_are_dropped_independently(probability):
    """Indices that differ in one high bit are what a weak hash confuses."""
    torch.manual_seed(0)
    indices = torch.arange(2**17, dtype=torch.int32) ^ draw_seed(torch.device("cpu"))
    zeros = (hashed(indices) < threshold_of(probability)).double()
    for bit in range(31):
        others = (hashed(indices ^ (1 << bit)) < threshold_of(probability)).double()
        assert_mean(zeros * others, probability**2, f"bit {bit}")


@pytest.mark.parametrize("probability", [0.1, 0.5])
@pytest.mark.parametrize("bit", ["all", 0, 15, 30, 31])
def test_a_seed_and_one_that_differs_in_some_bits_give_independent_masks(monkeypatch, probability, bit):
    for seed in (0, 1, 123_456_789, -5):
        other = ~seed if bit == "all" else int(np.array([seed], np.int32)[0] ^ np.array([1 << bit]).astype(np.int32)[0])
        masks = []
        for drawn in (seed, other):
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randint", lambda *_, drawn=drawn, **__: torch.tensor([drawn], dtype=torch.int32))
                masks.append(dropped(probability, 0).flatten())
        if bit in ("all", 30, 31):  # lower bits only exchange elements, which the seed is drawn at random for
            assert_mean(masks[0] * masks[1], probability**2, f"seed {seed}")
        assert not torch.equal(*masks)


def test_more_elements_than_32_bits_count_are_dropped_in_parts_with_seeds_of_their_own(monkeypatch):
    huge = dropout(torch.empty(3, 2**31, device="meta"), 0.1, training=True)  # no memory is taken
    assert huge.shape == (3, 2**31)
    monkeypatch.setattr(module, "_INDICES", COUNT // 4)
    zeros = dropped(0.25, 0)
    assert_mean(zeros, 0.25, "all elements")
    parts = zeros.flatten().split(COUNT // 4)
    assert len(parts) == 4
    for first in range(4):
        for second in range(first):
            assert_mean(parts[first] * parts[second], 0.25**2, f"parts {second} and {first}")


def test_the_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    values = torch.randn(64, 64, requires_grad=True)
    found = dropout(values, 0.25, training=True)
    found.sum().backward()
    assert torch.equal(values.grad == 0, found == 0)
    assert values.grad.unique().tolist() == pytest.approx([0, 1 / 0.75])


@pytest.mark.slow
@torch._inductor.config.patch(fallback_random=True)  # as the engine does
def test_compiled_dropout_drops_the_same_elements_forwards_and_backwards():
    compiled = torch.compile(dropout, dynamic=True)
    for shape in ((3, 5, 40), (2, 33, 64)):
        values = torch.randn(shape, requires_grad=True)
        found = []
        for function in (dropout, compiled):
            torch.manual_seed(3)
            dropped = function(values, 0.25, training=True)
            (gradient,) = torch.autograd.grad((dropped * torch.arange(shape[-1])).sum(), values)
            found += [dropped.detach(), gradient]
        assert torch.equal(found[0], found[2])
        torch.testing.assert_close(found[1], found[3])
        assert torch.equal(found[1] == 0, (found[0] == 0) | (torch.arange(shape[-1]) == 0))


def test_nothing_is_dropped_outside_of_training_or_at_a_rate_of_zero():
    values = torch.randn(64, 64)
    module = Dropout(0.5)
    assert torch.equal(module.eval()(values), values)
    assert not torch.equal(module.train()(values), values)
    assert torch.equal(Dropout(0.0).train()(values), values)
