"""The weights of a model before it is trained."""

import pytest
import torch

from bertwright.models.checkpoints import new_encoder
from bertwright.models.heads import PretrainingModel
from bertwright.models.initialization import (
    AVERAGE_GAIN,
    LOCAL_LAYERS,
    initialize_averaging,
    initialize_local_attention,
)
from bertwright.recipe import ModelConfig

SHAPE = ModelConfig(
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
    max_position_embeddings=256,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


@pytest.fixture
def local():
    torch.manual_seed(0)
    model = PretrainingModel(new_encoder(SHAPE, 500))
    initialize_local_attention(model.encoder)
    return model.encoder.eval()


def attention_by_hand(encoder, layer, ids):
    """Attention weights (batch, heads, seq, seq) of a block, one head and one query at a time."""
    seen = []
    encoder.blocks[layer].attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        encoder(ids, torch.zeros_like(ids), None)
    part, hidden = encoder.blocks[layer].attention, seen[0]
    query, key = part.query(hidden), part.key(hidden)
    width = SHAPE.hidden_size // SHAPE.num_attention_heads
    weights = torch.zeros(len(ids), SHAPE.num_attention_heads, ids.shape[1], ids.shape[1])
    for head in range(SHAPE.num_attention_heads):
        columns = slice(head * width, (head + 1) * width)
        for row in range(len(ids)):
            for position in range(ids.shape[1]):
                scores = (key[row, :, columns] * query[row, position, columns]).sum(-1) / width**0.5
                weights[row, head, position] = scores.softmax(-1)
    return weights


@pytest.mark.parametrize("layer", range(LOCAL_LAYERS))
def test_a_local_head_attends_to_its_neighbour_whatever_the_tokens(local, layer):
    ids = torch.randint(5, 500, (2, 128), generator=torch.Generator().manual_seed(1))
    weights = attention_by_hand(local, layer, ids).mean(0)  # (heads, seq, seq)
    for head, distance in enumerate((-1, 1, -2, 2)):
        fraction = {other: weights[head].diagonal(other).mean().item() for other in range(-6, 7)}
        assert max(fraction, key=fraction.get) == distance
        assert fraction[distance] > 10 / ids.shape[1], "ten times what even attention would give it"


def test_later_blocks_and_all_that_is_not_query_key_or_position_start_as_in_the_paper(local):
    torch.manual_seed(0)
    plain = dict(PretrainingModel(new_encoder(SHAPE, 500)).encoder.named_parameters())
    changed = {name for name, value in local.named_parameters() if not torch.equal(value, plain[name])}
    expected = {f"blocks.{n}.attention.{part}.weight" for n in range(LOCAL_LAYERS) for part in ("query", "key")}
    assert changed == expected | {"embeddings.position.weight"}


def test_positions_are_as_large_as_tokens_and_none_is_like_another(local):
    positions = local.embeddings.position.weight.detach()
    assert positions.pow(2).mean().sqrt().item() == pytest.approx(SHAPE.initializer_range, rel=1e-3)
    likeness = torch.nn.functional.normalize(positions, dim=1) @ torch.nn.functional.normalize(positions, dim=1).T
    assert (likeness - torch.eye(len(positions))).max() < 0.9


def test_an_averaging_block_adds_the_average_of_the_real_tokens(local):
    initialize_averaging(local)
    ids = torch.randint(5, 500, (3, 24), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(24) < torch.tensor([[24], [9], [1]])
    seen = []
    local.blocks[-1].attention.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        local(ids, torch.zeros_like(ids), mask)
    (hidden, added), *_ = seen
    for row, length in enumerate((24, 9, 1)):
        average = AVERAGE_GAIN * hidden[row, :length].mean(0)
        torch.testing.assert_close(added[row], average.expand(24, -1), rtol=1e-4, atol=1e-4)


def test_an_averaging_block_can_learn_what_to_attend_to(local):
    initialize_averaging(local)
    ids = torch.randint(5, 500, (3, 24), generator=torch.Generator().manual_seed(2))
    local(ids, torch.zeros_like(ids), None)[:, 0].square().sum().backward()
    assert local.blocks[-1].attention.query.weight.grad.abs().max() > 0
