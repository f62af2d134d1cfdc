"""Attention whose gradient is written by hand is `attend`, whose gradient PyTorch finds."""

import pytest
import torch

from bertwright.models.bert import attend
from bertwright.models.compiled_attention import CompiledAttention


def drawn(queries: int, seq: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Queries, keys and values of two sequences and three heads, (2, 3, P or S, 8)."""
    torch.manual_seed(1)
    return [torch.randn(2, 3, length, 8, dtype=dtype, requires_grad=True) for length in (queries, seq, seq)]


def by_hand(*given):
    """`attend` as the compiler sees it, computed step by step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        return attend(*given)


def results(function, given, *arguments):
    """The context, and the gradients with respect to queries, keys and values."""
    torch.manual_seed(2)
    found = function(*given, *arguments)
    factors = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view(found.shape)
    return [found, *torch.autograd.grad((found * factors).sum(), given)]


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("queries", [1, 7, 12])
def test_values_and_gradients_are_those_that_autograd_finds(queries, probability):
    given = drawn(queries, 12, torch.float32)
    mask = torch.ones(2, 1, 1, 12, dtype=torch.bool)
    mask[1, :, :, 9:] = False
    expected = results(attend, given, mask, probability)
    for found, wanted in zip(results(by_hand, given, mask, probability), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_the_gradients_are_as_near_to_those_of_float32_as_autograd_s():
    mask = torch.ones(2, 1, 1, 96, dtype=torch.bool)
    given = drawn(96, 96, torch.float32)
    exact = results(attend, given, mask, 0.1)
    rounded = [part.detach().bfloat16().requires_grad_() for part in given]

    def error(function):
        found = results(function, rounded, mask, 0.1)
        pairs = zip(found, exact, strict=True)
        return [float((a.float() - b).detach().norm() / b.detach().norm()) for a, b in pairs]

    for own, theirs in zip(error(by_hand), error(attend), strict=True):
        assert own < 1.2 * theirs


@pytest.mark.slow
@torch._inductor.config.patch(fallback_random=True)  # as the engine does
@pytest.mark.parametrize("masked", [True, False])
def test_compiled_attention_takes_that_gradient_and_drops_the_same_weights(monkeypatch, masked):
    backward = CompiledAttention.backward

    def threefold(context, gradient):
        to_query, *others = backward(context, gradient)
        return 3 * to_query, *others

    monkeypatch.setattr(CompiledAttention, "backward", threefold)  # so that its use shows
    compiled = torch.compile(attend, dynamic=True)
    for seq in (20, 33):
        given = drawn(seq, seq, torch.float32)
        mask = torch.arange(seq) < torch.tensor([seq, seq - 5])[:, None] if masked else None
        mask = None if mask is None else mask[:, None, None]
        expected = results(attend, given, mask, 0.25)
        expected[1] = 3 * expected[1]
        for found, wanted in zip(results(compiled, given, mask, 0.25), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
