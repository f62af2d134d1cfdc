"""Levers beside the recipe: each does what its name says, and is the package's code in the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import common
import lever_variants
import levers
import small_models
from bertwright.inputs import masking
from bertwright.inputs.pretraining import PretrainBatch
from bertwright.models.bert import Bert
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import FinetuneConfig
from bertwright.settings import MaskingConfig
from bertwright.tasks import pretraining
from bertwright.tasks.finetune import new_task_model
from bertwright.tasks.sequence import Classification
from bertwright.train.optim import Muon

SHAPE = replace(
    small_models.SHAPE, hidden_size=32, num_attention_heads=2, intermediate_size=48, max_position_embeddings=32
)


def encoder_of(build):
    return small_models.drawn(build, SHAPE)


@pytest.fixture
def ids():
    return torch.randint(5, 40, (2, 20), generator=torch.Generator().manual_seed(1))


def encoded(encoder, ids):
    return encoder(ids, torch.zeros_like(ids))


def test_value_residuals_of_weight_zero_are_bert(ids):
    mixed, plain = encoder_of(lever_variants.ValueResiduals), encoder_of(Bert)
    plain.load_state_dict(mixed.state_dict(), strict=False)
    assert not torch.allclose(encoded(mixed, ids), encoded(plain, ids), atol=1e-3)
    for block in mixed.blocks:
        torch.nn.init.ones_(block.own)
    torch.testing.assert_close(encoded(mixed, ids), encoded(plain, ids))


def test_normed_queries_do_not_grow_with_their_weights(ids):
    normed, plain = encoder_of(lever_variants.NormedBert), encoder_of(Bert)
    before = encoded(normed, ids), encoded(plain, ids)
    for encoder in (normed, plain):
        for block in encoder.blocks:
            block.attention.query.weight.data.mul_(7)
    torch.testing.assert_close(encoded(normed, ids), before[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoded(plain, ids), before[1], atol=1e-3)


def test_normuon_moves_rows_alike_and_as_far_as_muon():
    torch.manual_seed(0)
    start, gradient = torch.randn(12, 30), torch.randn(12, 30) * torch.linspace(0.1, 3, 12)[:, None]
    moves = []
    for kind in (Muon, lever_variants.NorMuon):
        matrix = torch.nn.Parameter(start.clone())
        matrix.grad = gradient.clone()
        kind([matrix], lr=0.1, weight_decay=0.0).step()
        moves.append(matrix.detach() - start)
    muon, normed = moves
    assert float(normed.norm()) == pytest.approx(float(muon.norm()), rel=1e-4)
    torch.testing.assert_close(normed.norm(dim=1), normed.norm(dim=1).mean().expand(12), rtol=1e-3, atol=0)
    assert muon.norm(dim=1).std() > 0.01 * muon.norm(dim=1).mean()


def test_zero_outputs_leave_the_embeddings_and_their_norms(ids, monkeypatch):
    made = encoder_of(Bert)
    monkeypatch.setattr(pretraining, "first_model", lambda: PretrainingModel(made, draw=False))
    with lever_variants.zero_outputs():
        encoder = pretraining.first_model().encoder
    embedded = encoder.embeddings(ids, torch.zeros_like(ids))
    torch.testing.assert_close(encoded(encoder, ids), embedded, atol=1e-4, rtol=1e-4)  # normalised already


class Stub(pretraining.Pretraining):
    """Builds batches of one sequence, as the package masks it."""

    def __init__(self):
        self.objective = lever_variants.CountingObjective(PretrainingModel(encoder_of(Bert)), False)
        self.objective.seen[:] = 100
        self.objective.wrong[:20], self.objective.wrong[20:] = 90, 30


IDS = np.tile(np.arange(10, 30), (400, 1))


def masked(*_):
    maskable = np.ones(IDS.shape, np.bool_)
    maskable[:, :2] = False
    vocabulary = masking.Vocabulary(4, np.arange(5, 40, dtype=np.int32), np.zeros(40, np.bool_))
    return masking.mask_tokens(IDS, maskable, MaskingConfig(rate=0.3), vocabulary, np.random.default_rng(0))[1]


def test_wrong_entries_are_masked_more_often_and_no_more_in_all(monkeypatch):
    monkeypatch.setattr(pretraining.Pretraining, "micro_batches", masked)
    plain = masked()
    with lever_variants.error_weighted_masks():
        chosen = Stub().micro_batches(0, 0, 0, 1)
        # Held-out text, which nothing trains on, is masked as in all other rows.
        assert (masked() == plain).all()
    assert (chosen.sum(1) == round(0.3 * 18)).all()
    assert not chosen[:, :2].any()
    often, seldom = chosen[:, 2:10].mean(), chosen[:, 10:].mean()
    assert 2 < often / seldom < 3, "three times as wrong, drawn without replacement"


@pytest.mark.parametrize("name", lever_variants.VARIANTS)
def test_a_variant_is_opened_again_for_fine_tuning(name, small_tokenizer, tmp_path):
    common.register(lever_variants.VARIANTS)
    torch.manual_seed(0)
    shape = replace(SHAPE, architecture=name)
    given = PretrainingModel(new_encoder(shape, small_tokenizer.vocab_size))
    save_model(given, small_tokenizer, tmp_path, max_length=32)
    task = Classification()
    model = new_task_model(task, tmp_path, FinetuneConfig(data="x"), ["a", "b"], print)
    for own, other in zip(model.encoder.parameters(), given.encoder.parameters(), strict=True):
        assert torch.equal(own, other)


def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 40, (2, 16))
    labels = np.where(rng.random((2, 16)) < 0.4, ids, masking.IGNORED_LABEL)
    shown = np.where(labels >= 0, 4, ids)
    real = np.ones((2, 16), np.bool_)
    real[1, 12:] = False
    labels[1, 12:] = masking.IGNORED_LABEL
    made = PretrainBatch(shown, np.zeros_like(ids), real, labels, np.full(2, masking.IGNORED_LABEL))
    return pretraining.tensors(made)


def test_errors_are_counted_by_entry():
    objective = lever_variants.CountingObjective(PretrainingModel(encoder_of(Bert)), False).train()
    own = batch()
    losses = objective(**own)
    expected = pretraining.PretrainingObjective(objective.model, False)(**own)
    torch.testing.assert_close(losses["mlm"].total, expected["mlm"].total)
    labels = own["labels"][own["labels"] >= 0]
    torch.testing.assert_close(objective.seen - 1, torch.bincount(labels, minlength=40).float())
    assert (objective.wrong - 1).sum() == len(labels) - expected["mlm"].correct


def test_replaced_tokens_train_both_networks():
    model = PretrainingModel(encoder_of(Bert))
    objective = lever_variants.DetectingObjective(model, False).train()
    own = batch()
    losses = objective(**own)
    assert losses["rtd"].count == own["attention_mask"].sum()
    assert 0 < losses["rtd"].total / losses["rtd"].count < 500
    (losses["mlm"].total + losses["rtd"].total).backward()
    for part in (model.generator.blocks, model.encoder.blocks, model.detector, model.masked_language_model):
        assert all(weight.grad is not None for weight in part.parameters())
    # Nobody replaces what was not masked: without masks, nothing is to be found.
    plain = {**own, "labels": torch.full_like(own["labels"], masking.IGNORED_LABEL)}
    torch.nn.init.constant_(model.detector[-1].bias, -40.0)
    torch.nn.init.zeros_(model.detector[-1].weight)
    assert objective(**plain)["rtd"].total == 0
    assert objective(**own)["rtd"].total > 0


@pytest.mark.parametrize("name", levers.LEVERS)
def test_every_lever_is_a_recipe(name, tmp_path):
    common.register(lever_variants.VARIANTS)
    data = {"books": "books", "imdb": "imdb"}
    recipe = levers.recipe_of(levers.LEVERS[name], data, 10, 1, tmp_path / "run")
    base = levers.recipe_of(levers.LEVERS["imdb-mini"], data, 10, 1, tmp_path / "run")
    lever = levers.LEVERS[name]
    assert (recipe != base) == bool(lever.changes)
    assert (recipe.tokenizer, recipe.prepare, recipe.finetune) == (base.tokenizer, base.prepare, base.finetune)
    assert (recipe.pretrain.max_minutes, recipe.seed, recipe.finetune.seeds) == (10, 1, (1,))
    assert sum(phase.budget_ratio for phase in recipe.pretrain.phases) == pytest.approx(1)
