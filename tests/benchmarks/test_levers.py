"""Levers beside the recipe: each does what its name says, and is the package's code in the rest."""

import threading
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
from bertwright.recipe import FinetuneConfig, SystemConfig
from bertwright.settings import MaskingConfig
from bertwright.tasks import pretraining
from bertwright.tasks.finetune import new_task_model
from bertwright.tasks.sequence import Classification
from bertwright.train.engine import Engine
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


def masked_in_another_thread(*_):
    found = []
    thread = threading.Thread(target=lambda: found.append(masked()))
    thread.start()
    thread.join()
    return found[0]


def test_held_out_text_is_masked_alike_while_a_batch_is_built(monkeypatch):
    monkeypatch.setattr(pretraining.Pretraining, "micro_batches", masked_in_another_thread)
    plain = masked()
    with lever_variants.error_weighted_masks():
        assert (Stub().micro_batches(0, 0, 0, 1) == plain).all()


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
def test_a_variant_begins_with_the_weights_of_bert(name):
    common.register(lever_variants.VARIANTS)
    plain, variant = (small_models.begun(replace(SHAPE, architecture=one)) for one in ("bert", name))
    assert plain.keys() <= variant.keys()
    assert all(torch.equal(weights, variant[key]) for key, weights in plain.items())


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


def test_replacements_are_drawn_by_their_probability_with_one_number_a_row():
    probabilities = torch.tensor([0.0, 0.5, 0.2, 0.3, 0.0])
    logits = probabilities.log().expand(20_000, 5)
    torch.manual_seed(0)
    found = torch.bincount(lever_variants.drawn_from(logits), minlength=5) / 20_000
    torch.testing.assert_close(found, probabilities, atol=0.015, rtol=0)
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(20_000)
    assert torch.equal(after, torch.rand(1))


def test_the_generator_attends_to_neighbours_at_first():
    model = PretrainingModel(new_encoder(SHAPE, 40))
    lever_variants.DetectingObjective(model, False)
    attention = model.generator.blocks[0].attention
    for part in (attention.query, attention.key):  # random weights end at twice the initializer's range
        assert part.weight.abs().max() > 10 * SHAPE.initializer_range


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


@pytest.mark.slow
def test_what_is_compiled_before_a_row_is_kept_for_it(monkeypatch):
    forgotten = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(1))
    with levers.compiled_once():
        for _ in range(2):
            layer = torch.nn.Linear(8, 8)
            Engine(SystemConfig(precision="fp32", compile="on"), print).prepare(layer, [layer])
    assert len(forgotten) == 1


def test_a_row_leaves_those_of_other_seeds(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    monkeypatch.setattr(levers, "pretrained", lambda recipe, lever, corpus: (recipe, {"tokens": 1, "seconds": 1.0}))
    monkeypatch.setattr(levers.bertwright, "run", lambda recipe, stages: None)
    monkeypatch.setattr(levers, "kept_evaluation", lambda place: {"accuracy": 0.9, "loss": 0.3})
    monkeypatch.setattr(levers, "last_evaluation", lambda place: {"heldout": {"mlm_loss": 5.0}})
    names = ["run-1", "run-1-start", "run-1-warm", "run-1-warm-start", "run-10", "run-10-warm"]
    for name in names:
        (tmp_path / name).mkdir()
    lever = levers.LEVERS["imdb-mini"]
    recipe = levers.recipe_of(lever, {"books": "books", "imdb": "imdb"}, 10, 1, tmp_path / "run-1")
    found = levers.measure(recipe, lever, corpus)
    assert (found["mlm_loss"], found["validation_accuracy"], found["compile_seconds"]) == (5.0, 0.9, 0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "run-10", "run-10-warm"]


def test_a_table_shows_rows_of_earlier_levers_and_the_differences_of_each_seed():
    def runs(*accuracies):
        rows = enumerate(accuracies)
        return [{"seed": s, "validation_accuracy": a, "mlm_loss": 5.0, "tokens": 2e6} for s, a in rows]

    lines = levers.table({"imdb-mini": runs(0.8, 0.81), "NorMuon": runs(0.81, 0.80), "deleted": runs(0.9)}).splitlines()
    assert lines[3] == "| NorMuon | 5.000 | 0.8050 ± 0.0071 | +0.0000 (+0.0100, -0.0100) | 2.0 |"
    assert lines[4] == "| deleted | – | 0.9000 | +0.1000 (+0.1000) | 2.0 |"
