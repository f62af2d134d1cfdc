"""ModernBERT against Hugging Face's, with the same weights, in both directions; and what of its folders is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
import yaml
from torch._dynamo.testing import CompileCounter

from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models import local_attention
from bertwright.models.checkpoints import (
    FORMATS,
    load_pretraining_model,
    new_encoder,
    save_weights,
    to_hugging_face,
)
from bertwright.models.heads import PretrainingModel, TaskModel, cross_entropy
from bertwright.recipe import ModelConfig
from bertwright.recipe_file import change_recipe, load_recipe
from bertwright.tasks.registry import find_task, load_task_model
from small_models import relative, shaken

SHAPE = ModelConfig(
    architecture="modernbert",
    hidden_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=56,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    layer_norm_eps=1e-5,
    local_attention=8,
    global_attn_every_n_layers=3,
    global_rope_theta=1000.0,
    local_rope_theta=70.0,
)
VOCAB = 211
NAMES = FORMATS["modernbert"].names
LENGTHS = {"full": (31, 31), "padded": (31, 18, 5, 1)}


def batch(lengths=LENGTHS["padded"], seed=0):
    """Ids, segments, mask and labels of masked tokens; the longest rows are four windows wide."""
    rng = np.random.default_rng(seed)
    rows, seq = len(lengths), max(lengths)
    ids = torch.from_numpy(rng.integers(5, VOCAB, (rows, seq)))
    mask = torch.from_numpy(np.arange(seq) < np.array(lengths)[:, None])
    ids[~mask] = 0
    labels = torch.where(mask & torch.from_numpy(rng.random((rows, seq)) < 0.3), ids, -100)
    labels[0, 1] = ids[0, 1]
    return ids, torch.zeros_like(ids), mask, labels


def pretrained(seed=0, **changes):
    torch.manual_seed(seed)
    return shaken(PretrainingModel(new_encoder(replace(SHAPE, **changes), VOCAB)))


def same_gradients(ours, theirs):
    """See that each parameter has the gradient of the one that it is called in `transformers`."""
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - expected[to_hugging_face(name, NAMES)]).abs().max() / largest < 1e-5, name
    assert len(list(ours.parameters())) == len(expected)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_masked_tokens_logits_loss_and_gradients_equal_transformers(tmp_path, lengths, mode):
    ours = pretrained()
    save_weights(ours, tmp_path)
    theirs = transformers.ModernBertForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager")
    ours.train(mode == "train")
    theirs.train(mode == "train")
    ids, segments, mask, labels = batch(lengths)
    reference = theirs(ids, mask.long(), labels=labels)
    logits, pairs = ours(ids, segments, mask)
    assert pairs is None
    assert relative(logits[mask], reference.logits[mask]) < 1e-5
    positions = torch.nonzero(labels.flatten() != -100).flatten()
    loss = cross_entropy(ours(ids, segments, mask, positions)[0], labels.flatten()[positions]).total / len(positions)
    assert relative(loss, reference.loss) < 1e-5
    loss.backward()
    reference.loss.backward()
    same_gradients(ours, theirs)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_hidden_states_and_attention_equal_transformers(tmp_path, every):
    ours = pretrained(global_attn_every_n_layers=every).eval()
    save_weights(ours, tmp_path)
    theirs = transformers.ModernBertModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids, segments, _, _ = batch(LENGTHS["full"])
    with torch.no_grad():
        reference = theirs(ids, output_hidden_states=True, output_attentions=True)
        states, maps = ours.encoder.hidden_states(ids), ours.encoder.attention_maps(ids)
        assert torch.equal(states[-1], ours.encoder(ids, segments))
    assert len(states) == len(reference.hidden_states)
    for state, expected in zip(states, reference.hidden_states, strict=True):
        assert relative(state, expected) < 1e-5
    for layer, expected in enumerate(reference.attentions):
        torch.testing.assert_close(maps[:, layer], expected, atol=1e-6, rtol=1e-5)


def head_losses(kind, theirs, ids, mask, rng):
    """Their loss, and our targets for the same labels."""
    rows, seq = ids.shape
    if kind == "classification":
        labels = torch.from_numpy(rng.integers(0, 3, rows))
        return theirs(ids, mask.long(), labels=labels), torch.eye(3)[labels]
    if kind == "regression":
        numbers = torch.from_numpy(rng.normal(size=rows)).float()
        return theirs(ids, mask.long(), labels=numbers), torch.stack([torch.ones(rows), numbers], 1)
    if kind == "multi-label":
        labels = torch.from_numpy(rng.integers(0, 2, (rows, 3))).float()
        return theirs(ids, mask.long(), labels=labels), 2 * labels - 1
    if kind == "token-classification":
        labels = torch.where(mask, torch.from_numpy(rng.integers(0, 3, (rows, seq))), -100)
        return theirs(ids, mask.long(), labels=labels), torch.eye(3)[labels.clamp_min(0)] * (labels >= 0)[..., None]
    if kind == "question-answering":
        start = torch.from_numpy(rng.integers(0, mask.sum(1).numpy()))
        return theirs(ids, mask.long(), start_positions=start, end_positions=start), torch.stack(
            [torch.eye(seq)[start]] * 2, -1
        )
    right = torch.from_numpy(rng.integers(0, 2, rows // 2))
    found = theirs(ids.view(-1, 2, seq), mask.long().view(-1, 2, seq), labels=right)
    return found, torch.eye(2)[right].repeat_interleave(2, 0)


KINDS = {
    "classification": "SequenceClassification",
    "regression": "SequenceClassification",
    "multi-label": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "multiple-choice": "MultipleChoice",
}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_head_s_logits_loss_and_gradients_equal_transformers(tmp_path, kind, pooling):
    torch.manual_seed(1)
    encoder = new_encoder(replace(SHAPE, classifier_pooling=pooling), VOCAB)
    names = {"regression": ["score"], "multiple-choice": ["choice"], "question-answering": ["start", "end"]}.get(
        kind, ["bad", "fair", "good"]
    )
    ours = shaken(TaskModel(encoder, find_task(kind).head(encoder, names, 0.0), names, kind))
    save_weights(ours, tmp_path)
    theirs = getattr(transformers, f"ModernBertFor{KINDS[kind]}").from_pretrained(tmp_path, attn_implementation="eager")
    ids, segments, mask, _ = batch()
    reference, targets = head_losses(kind, theirs, ids, mask, np.random.default_rng(3))
    logits = ours(ids, segments, mask)
    if kind == "question-answering":
        given = torch.where(mask[..., None], torch.stack([reference.start_logits, reference.end_logits], -1), logits)
    else:
        given = reference.logits.view_as(logits)
    real = mask if kind == "token-classification" else ...
    assert relative(logits[real], given[real]) < 1e-5
    if kind == "question-answering":  # theirs lets an answer start at padding
        reference, targets = head_losses(kind, theirs, ids[:1], mask[:1], np.random.default_rng(3))
        logits = ours(ids[:1], segments[:1], mask[:1])
    found = ours.head.loss(logits, targets)
    loss = found.total / found.count
    assert relative(loss, reference.loss) < 1e-5
    loss.backward()
    reference.loss.backward()
    same_gradients(ours, theirs)
    again = load_task_model(tmp_path)
    assert again.label_names == names
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


HUB = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 50281,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 50281,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 50282,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": 48,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 56,
    "layer_norm_eps": 1e-05,
    "local_attention": 8,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "reference_compile": True,
    "repad_logits_with_grad": False,
    "sep_token_id": 50282,
    "sparse_pred_ignore_index": -100,
    "sparse_prediction": False,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": VOCAB,
}
"""The settings in the config.json of answerdotai/ModernBERT-base, of a smaller network."""


def change(folder, **settings):
    """Change settings of a folder's config.json."""
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **settings})


@pytest.fixture
def theirs(tmp_path):
    """A random model of `transformers`, and its folder as version 5 writes it."""
    torch.manual_seed(0)
    shape = {name: HUB[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    config = transformers.ModernBertConfig(
        **shape, num_attention_heads=4, local_attention=8, pad_token_id=0, global_attn_every_n_layers=2
    )
    model = shaken(transformers.ModernBertForMaskedLM(config)).eval()
    model.save_pretrained(tmp_path)
    return model, tmp_path


@pytest.mark.parametrize("form", ["as version 5 writes it", "as on the hub"])
def test_a_folder_of_transformers_opens_and_goes_back_to_the_bit(theirs, tmp_path, form):
    model, folder = theirs
    if form == "as on the hub":
        write_json(folder / "config.json", {**HUB, "global_attn_every_n_layers": 2})
    else:
        assert "layer_types" in read_json(folder / "config.json")
    ours = load_pretraining_model(folder).eval()
    ids, segments, mask, _ = batch()
    with torch.no_grad():
        assert relative(ours(ids, segments, mask)[0][mask], model(ids, mask.long()).logits[mask]) < 1e-5
    assert ours.absent == {"next_sentence", "pooler"}
    assert ours.encoder.max_length == 8192
    assert ours.encoder.config.classifier_pooling == ("mean" if form == "as on the hub" else "cls")
    save_weights(ours, tmp_path / "back")
    back = transformers.ModernBertForMaskedLM.from_pretrained(tmp_path / "back")
    for (name, one), (_, other) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert back.config.layer_types == model.config.layer_types
    assert back.config.rope_parameters == model.config.rope_parameters
    bare = transformers.ModernBertModel.from_pretrained(folder)
    bare.save_pretrained(tmp_path / "bare")
    again = load_pretraining_model(tmp_path / "bare")
    assert again.absent == {"masked_language_model", "next_sentence", "pooler"}
    for one, other in zip(ours.encoder.parameters(), again.encoder.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_classifier_of_transformers_is_an_encoder_without_a_head_for_masked_tokens(theirs, tmp_path):
    model, _ = theirs
    classifier = transformers.ModernBertForSequenceClassification(model.config)
    classifier.model.load_state_dict(model.model.state_dict())
    classifier.save_pretrained(tmp_path / "classifier")
    ours = load_pretraining_model(tmp_path / "classifier")
    assert ours.absent == {"masked_language_model", "next_sentence", "pooler"}
    for one, other in zip(ours.encoder.parameters(), model.model.parameters(), strict=True):
        assert one.shape == other.shape
    assert torch.equal(ours.encoder.norm.weight, model.model.final_norm.weight)


def test_an_output_matrix_of_its_own_is_read_and_written(theirs, tmp_path):
    _, folder = theirs
    change(folder, tie_word_embeddings=False)
    untied = shaken(transformers.ModernBertForMaskedLM.from_pretrained(folder)).eval()
    untied.save_pretrained(folder)
    ours = load_pretraining_model(folder).eval()
    save_weights(ours, tmp_path / "back")
    back = transformers.ModernBertForMaskedLM.from_pretrained(tmp_path / "back").eval()
    ids, segments, mask, _ = batch()
    with torch.no_grad():
        expected = untied(ids, mask.long()).logits[mask]
        assert relative(ours(ids, segments, mask)[0][mask], expected) < 1e-5
        assert relative(back(ids, mask.long()).logits[mask], expected) < 1e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"norm_bias": True}, "has norm_bias True; Bertwright computes False"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"classifier_bias": True}, "classifier_bias True"),
        ({"decoder_bias": False}, "decoder_bias False; Bertwright computes True"),
        ({"hidden_activation": "silu"}, "hidden_activation silu; Bertwright computes gelu"),
        ({"classifier_activation": "relu"}, "classifier_activation relu"),
        ({"classifier_pooling": "max"}, "classifier_pooling max"),
        ({"embedding_dropout": 0.1}, "embedding_dropout is 0.1 and mlp_dropout 0.0"),
        ({"head_dim": 6}, "head_dim is 6"),
        ({"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2}, "first in every n layers"),
        ({"layer_types": ["full_attention"] * 3}, "first in every n layers"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling has type linear"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0}}}, "rope_type yarn"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1.0}}, "rope_parameters holds rope_type"),
        ({"hidden_size": 40}, "has shape"),
        ({"num_attention_heads": 16}, "must be even; it is 3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_not_computed_are_refused(theirs, settings, words):
    _, folder = theirs
    change(folder, **settings)
    with pytest.raises(UserError, match=words):
        load_pretraining_model(folder)


def test_a_modern_network_has_the_defaults_of_modernbert_base():
    config, theirs = ModelConfig(architecture="modernbert"), transformers.ModernBertConfig()
    assert config.num_hidden_layers == theirs.num_hidden_layers
    assert config.intermediate_size == theirs.intermediate_size
    assert config.max_position_embeddings == theirs.max_position_embeddings
    assert config.layer_norm_eps == theirs.norm_eps
    assert config.hidden_dropout_prob == theirs.mlp_dropout == theirs.embedding_dropout
    assert config.attention_probs_dropout_prob == theirs.attention_dropout
    bert, theirs = ModelConfig(), transformers.BertConfig()
    for name in ("num_hidden_layers", "intermediate_size", "max_position_embeddings", "hidden_dropout_prob"):
        assert getattr(bert, name) == getattr(theirs, name)
    assert ModelConfig(architecture="modernbert", hidden_dropout_prob=0.1).hidden_dropout_prob == 0.1


def test_a_recipe_with_a_modern_network_in_line_has_its_defaults(tmp_path):
    content = {"name": "x", "data": {"b": "b"}, "prepare": {"corpora": ["b"]}}
    content |= {"model": {"architecture": "modernbert"}, "pretrain": {"max_steps": 1, "next_sentence": False}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    recipe = load_recipe(tmp_path / "x.yaml")
    assert recipe.model == ModelConfig(architecture="modernbert")
    assert change_recipe(recipe, seed=1).model == recipe.model


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_settings_of_the_other_architecture_are_refused_in_a_recipe(architecture):
    other = {"bert": {"local_attention": 64}, "modernbert": {"type_vocab_size": 1}}[architecture]
    with pytest.raises(
        UserError, match=rf"model\.{next(iter(other))} is \d+, but model.architecture is {architecture}"
    ):
        ModelConfig(architecture=architecture, **other)


def test_the_first_positions_are_the_same_when_only_they_are_computed():
    model = pretrained(global_attn_every_n_layers=2).encoder  # whose last layer is local
    ids, segments, mask, _ = batch()
    whole = model(ids, segments, mask)
    for positions in (1, 3):
        assert relative(model(ids, segments, mask, positions), whole[:, :positions]) < 1e-5


def test_padding_and_batch_mates_do_not_change_outputs_and_give_no_nan_in_bfloat16():
    model = pretrained().eval()
    ids, segments, mask, labels = batch((60, 18, 5, 1))
    with torch.no_grad():
        together, _ = model(ids, segments, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            alone, _ = model(ids[row : row + 1, :length], segments[row : row + 1, :length])
            torch.testing.assert_close(together[row, :length], alone[0], atol=2e-6, rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(ids, segments, mask)
        loss = cross_entropy(logits, labels)
    assert relative(logits[mask].float(), together[mask]) < 0.05
    loss.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_token_is_reached_from_as_far_as_the_windows_of_all_layers_go():
    """What a token tells others by way of local layers alone ends with their windows."""
    model = pretrained(num_hidden_layers=3, global_attn_every_n_layers=3).encoder.eval()
    hidden = torch.randn(1, 31, 48, requires_grad=True)
    turns = model.rotations(31, hidden.device)[False]
    state = hidden
    for block in model.layers[1:]:
        state = block(state, turns, None)
    state[0, 15].sum().backward()
    reached = hidden.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [abs(place - 15) <= 2 * 4 for place in range(31)]  # two layers, four on either side


@pytest.mark.parametrize("seq", [17, 18, 29, 64])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_in_parts_is_that_of_one_product_with_a_mask_and_has_its_gradients(monkeypatch, seq, padded):
    torch.manual_seed(0)
    inputs = torch.randn(3, 2, 4, seq, 6, requires_grad=True)
    lengths = torch.tensor([seq, seq // 3 if padded else seq])
    mask = (torch.arange(seq) < lengths[:, None])[:, None, None] if padded else None
    real = torch.arange(seq) < lengths[:, None, None]
    outcomes = []
    for short in (0, 100):
        monkeypatch.setattr(local_attention, "_SHORT", short)
        context = local_attention.attend_nearby(*inputs, mask, 8, 0.0)
        shown = context.transpose(2, 3) * real[:, :, None]
        outcomes.append((shown, *torch.autograd.grad(shown.sin().sum(), inputs)))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    near = local_attention.neighbours(seq, seq, 8, mask, inputs.device)
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs, near)
    torch.testing.assert_close(outcomes[0][0], expected.transpose(2, 3) * real[:, :, None], atol=1e-6, rtol=1e-5)


def test_the_base_size_has_the_published_number_of_parameters(recipes):
    config = ModelConfig(**yaml.safe_load((recipes / "models" / "modern-base.yaml").read_text()))
    with torch.device("meta"):
        model = PretrainingModel(new_encoder(config, 50_368))
    assert sum(parameter.numel() for parameter in model.parameters()) == 149_655_232


@pytest.mark.slow
def test_two_compilations_serve_texts_of_all_lengths():
    counted = CompileCounter()
    compiled = torch.compile(local_attention.attend_nearby, dynamic=True, backend=counted)
    for rows, seq in ((2, 31), (3, 30), (4, 40), (2, 12), (3, 9), (2, 50)):
        inputs = torch.randn(3, rows, 4, seq, 6)
        mask = (torch.arange(seq) < torch.arange(2, 2 + rows)[:, None])[:, None, None]
        expected = local_attention.attend_nearby(*inputs, mask, 8, 0.0)
        torch.testing.assert_close(compiled(*inputs, mask, 8, 0.0), expected)
    assert counted.frame_count == 2
