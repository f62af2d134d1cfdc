"""BERT with one of ModernBERT's differences each: every variant has its own and is BERT in the rest."""

from dataclasses import replace

import pytest
import torch

import common
import modern_shape
import small_models
from bertwright.files import read_json
from bertwright.models.bert import Bert
from speedrun import small_data

SHAPE = replace(
    small_models.SHAPE,
    hidden_size=32,
    num_attention_heads=2,
    intermediate_size=48,
    num_hidden_layers=4,
    max_position_embeddings=512,
)


def model_of(build):
    return small_models.drawn(build, SHAPE)


def encoded(model, ids):
    return model(ids, torch.zeros_like(ids))


@pytest.fixture
def ids():
    return torch.randint(5, 40, (2, 300), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", modern_shape.VARIANTS)
def test_a_variant_is_another_function_that_learns_in_all_its_weights(name, ids):
    model = model_of(modern_shape.VARIANTS[name])
    found = encoded(model, ids)
    assert found.shape == (2, 300, 32)
    assert not torch.allclose(found, encoded(model_of(Bert), ids), atol=1e-3)
    torch.manual_seed(2)
    (found * torch.randn_like(found)).sum().backward()
    assert [name for name, part in model.named_parameters() if part.grad is None or not part.grad.any()] == []


@pytest.mark.parametrize("name", ["bert-pre-norm", "bert-without-biases", "bert-local"])
def test_a_variant_with_all_parts_of_bert_begins_with_its_weights(name):
    common.register(modern_shape.VARIANTS)
    plain, variant = (small_models.begun(replace(SHAPE, architecture=one)) for one in ("bert", name))
    matrices = [key for key in plain if key.endswith("weight") and plain[key].ndim == 2]
    assert all(torch.equal(plain[key], variant[key]) for key in matrices)


def test_pre_norm_adds_to_states_that_are_never_scaled(ids):
    # Without the last normalisation, parts that give nothing leave the embeddings as they are; after BERT's sums they
    # would be normalised again.
    model = model_of(modern_shape.PreNorm)
    model.norm = torch.nn.Identity()
    model.embeddings.norm.weight.data.mul_(3)
    for block in model.blocks:
        for part in (block.attention.output, block.feed_forward.contract):
            part.weight.data.zero_()
    torch.testing.assert_close(encoded(model, ids), model.embeddings(ids, torch.zeros_like(ids)))


def test_rotary_positions_tell_distances_and_no_places(ids):
    model = model_of(modern_shape.Rotary)
    attention, hidden = model.blocks[0].attention, torch.randn(1, 12, 32)
    # A text after padding that nobody attends to, at other places: the same vectors.
    padded = torch.cat([torch.randn(1, 7, 32), hidden], dim=1)
    mask = (torch.arange(19) >= 7)[None, None, None]
    torch.testing.assert_close(attention(padded, mask)[:, 7:], attention(hidden, None), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(attention(hidden.flip(1), None).flip(1), attention(hidden, None), atol=1e-3)


def test_gated_units_have_as_many_weights():
    counts = [sum(part.numel() for part in model_of(build).blocks.parameters()) for build in (Bert, modern_shape.Gated)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)


def test_without_biases_there_are_none():
    names = [name for name, _ in model_of(modern_shape.WithoutBiases).named_parameters()]
    assert names
    assert not [name for name in names if "bias" in name]


def test_local_layers_read_neighbours_alone(ids):
    model = model_of(modern_shape.Local)
    kinds = [type(block.attention) is modern_shape.NearSelfAttention for block in model.blocks]
    assert kinds == [False, True, True, False]
    hidden = torch.randn(1, 300, 32)
    far = hidden.clone()
    far[:, 200:] += 1
    attention = model.blocks[1].attention
    near, changed = attention(hidden, None)[:, :136], attention(far, None)[:, :136]
    torch.testing.assert_close(near, changed)
    assert not torch.allclose(attention(hidden, None)[:, 137], attention(far, None)[:, 137], atol=1e-4)


@pytest.mark.slow
def test_rows_are_measured_once(sample, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("<!-- table:start -->\n<!-- table:end -->\n")
    data = small_data(tmp_path / "reviews")
    words = {**data, "steps": 1, "seeds": (0,), "out": str(tmp_path / "out")}
    modern_shape.main(**words, rows=("BERT", "pre-norm"))
    found = read_json(tmp_path / "out" / "results.json")["rows"]
    assert found.keys() == {"BERT", "pre-norm"}
    assert all(len(runs) == 1 and runs[0]["mlm_loss"] > 5 for runs in found.values())
    assert "| pre-norm | " in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "runs" / "modern-shape" / "run-0-1" / "pretrain").exists()  # each seed has a folder of its own
    capsys.readouterr()
    modern_shape.main(**words, rows=("BERT", "pre-norm"))
    assert "seed 0" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="rows of another recipe, of other texts"):
        modern_shape.main(**{**words, "steps": 2}, rows=("BERT",))
