"""Rearranged blocks compute what the blocks of bert.py do."""

import copy

import pytest
import torch

from bertwright.models.bert import Bert, Block
from bertwright.models.checkpoints import new_encoder
from bertwright.models.packed import pack
from bertwright.recipe import ModelConfig
from bertwright.train.engine import has_bf16

pytestmark = pytest.mark.skipif(not has_bf16() or torch.cuda.is_available(), reason="no CPU with bfloat16")


def encoders(**shape):
    """An encoder with weights that matter, in float32, in bfloat16, and in bfloat16 and packed."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 200}
    exact = new_encoder(ModelConfig(**{**sizes, **shape}), 1_000).eval()
    for parameter in exact.parameters():
        torch.nn.init.normal_(parameter, 0.05 if parameter.ndim == 1 else 0.0, 0.15)
    plain = copy.deepcopy(exact).to(torch.bfloat16)
    packed = copy.deepcopy(plain)
    pack(packed)
    return exact, plain, packed


def batch(rows, width):
    ids = torch.randint(5, 1_000, (rows, width), generator=torch.Generator().manual_seed(1))
    lengths = torch.randint(1, width + 1, (rows, 1), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(width)[None] < lengths
    segments = (torch.arange(width) > width // 2).long().expand(rows, -1)
    return {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask}


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(1, 7), (1, 16), (3, 64), (9, 113)])
@pytest.mark.parametrize("positions", [None, 1, 5])
@pytest.mark.slow
def test_states_are_those_of_the_plain_blocks(is_decoder, rows, width, positions):
    exact, plain, packed = encoders(is_decoder=is_decoder)
    given = batch(rows, width)
    with torch.inference_mode():
        expected, rounded, found = (model(**given, positions=positions) for model in (exact, plain, packed))
    assert found.dtype == torch.bfloat16
    real = given["attention_mask"][:, :positions]
    error = (found.float() - expected)[real].abs()
    # As near to float32 as bfloat16 is without packing: the order of roundings differs, and nothing else.
    assert error.mean() < 1.2 * (rounded.float() - expected)[real].abs().mean()
    assert error.max() < 0.05 * expected[real].abs().max()


def test_a_shape_that_is_no_multiple_of_anything_is_packed_too():
    exact, _, packed = encoders(hidden_size=42, num_attention_heads=3, intermediate_size=77)
    with torch.inference_mode():
        expected, found = (model(**batch(2, 11)) for model in (exact, packed))
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_class_that_changes_bert_is_not_packed():
    class Changed(Bert):
        pass

    encoder = Changed(ModelConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1), 100).eval()
    pack(encoder.to(torch.bfloat16))
    assert type(encoder.blocks[0]) is Block
