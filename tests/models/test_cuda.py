"""What only a GPU computes: flash attention over rows of different lengths."""

import pytest
import torch

from bertwright.models.bert import attend, attend_within
from small_models import relative

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: flash attention needs a CUDA device"),
]


@pytest.mark.parametrize("lengths", [(32, 32, 32), (32, 17, 1)], ids=["full", "padded"])
@pytest.mark.parametrize("function", ["attend_within", "attend"])
def test_flash_attention_gives_what_a_cpu_gives_in_float32(lengths, function):
    torch.manual_seed(0)
    mask = (torch.arange(32) < torch.tensor(lengths)[:, None])[:, None, None, :]  # (B, 1, 1, S)
    real = mask[:, 0, 0]  # (B, S)
    rounded = torch.randn(3, len(lengths), 4, 32, 16).bfloat16()
    outcomes = []
    for device in ("cpu", "cuda"):
        values = (rounded if device == "cuda" else rounded.float()).to(device).requires_grad_()
        query, key, value = values.unbind(0)
        if device == "cpu" or function == "attend":
            context = attend(query, key, value, mask.to(device), 0.0)
        else:
            context = attend_within(query, key, value, mask.to(device))
        found = context.transpose(1, 2)[real.to(device)]  # (real tokens, A, D)
        found.float().sin().sum().backward()
        outcomes.append((found.detach().float().cpu(), values.grad.float().cpu()))
    (expected, expected_gradient), (found, gradient) = outcomes
    assert relative(found, expected) < 0.02  # bfloat16 has eight bits
    assert relative(gradient, expected_gradient) < 0.03
