"""The causal model: against `transformers` with the same weights, and no position depends on those after it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import small_models
from bertwright.apps.export import export
from bertwright.errors import UserError
from bertwright.files import read_json
from bertwright.inference import load
from bertwright.inputs.masking import IGNORED_LABEL, next_token_labels
from bertwright.models.checkpoints import (
    FORMATS,
    load_pretraining_model,
    new_encoder,
    save_model,
    save_weights,
    to_hugging_face,
)
from bertwright.models.heads import PretrainingModel, cross_entropy
from bertwright.tasks.registry import load_task_model
from small_models import VOCAB, classifier, relative, shaken

SHAPE = replace(small_models.SHAPE, is_decoder=True)
NAMES = FORMATS["bert"].names


def make_model():
    torch.manual_seed(0)
    return shaken(PretrainingModel(new_encoder(SHAPE, VOCAB)))


def make_batch(lengths=(31, 18, 5, 2)):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, VOCAB, (len(lengths), max(lengths)))
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return torch.from_numpy(np.where(mask, ids, 0)), torch.from_numpy(mask)


@pytest.fixture
def pair(tmp_path):
    ours = make_model()
    save_weights(ours, tmp_path)
    return ours, transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")


@pytest.mark.parametrize("lengths", [(31, 31, 31), (31, 18, 5, 2)], ids=["full", "padded"])
def test_logits_loss_and_gradients_equal_transformers(pair, lengths):
    ours, theirs = pair
    assert isinstance(theirs, transformers.BertLMHeadModel)
    ids, mask = make_batch(lengths)
    segments = torch.zeros_like(ids)
    # Given the tokens themselves as labels, transformers shifts them by one on its own.
    reference = theirs(ids, mask.long(), segments, labels=torch.where(mask, ids, IGNORED_LABEL))
    predicted = mask.clone()
    predicted[:, 0] = False
    labels = torch.from_numpy(next_token_labels(ids.numpy(), predicted.numpy())).flatten()
    positions = torch.nonzero(labels != IGNORED_LABEL).flatten()
    logits, _ = ours(ids, segments, mask)
    assert relative(logits[mask], reference.logits[mask]) < 1e-5

    chosen, _ = ours(ids, segments, mask, positions)
    loss = cross_entropy(chosen, labels[positions]).total / len(positions)
    assert relative(loss, reference.loss) < 1e-5
    loss.backward()
    reference.loss.backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(g.abs().max() for g in expected.values())
    compared = 0
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            assert (parameter.grad - expected[to_hugging_face(name, NAMES)]).abs().max() / largest < 1e-5, name
            compared += 1
    assert compared == len(expected)


def test_a_position_s_logits_do_not_depend_on_the_tokens_after_it():
    model = make_model()
    ids, _ = make_batch((31,))
    for place in (0, 1, 17, 29):
        changed = ids.clone()
        changed[0, place + 1 :] = 5 + (changed[0, place + 1 :] + 7) % (VOCAB - 5)
        with torch.no_grad():
            before, after = (model(row, torch.zeros_like(row))[0][0] for row in (ids, changed))
        torch.testing.assert_close(before[: place + 1], after[: place + 1], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(before[place + 1], after[place + 1], atol=1e-3)


def test_no_gradient_reaches_a_token_from_positions_before_it():
    model = make_model()
    ids, _ = make_batch((12,))
    vectors = model.encoder.embeddings(ids, torch.zeros_like(ids)).detach().requires_grad_()
    hidden = vectors
    for block in model.encoder.blocks:
        hidden = block(hidden, None)
    hidden[0, 6].sin().sum().backward()
    reached = vectors.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True] * 7 + [False] * 5


def test_attention_maps_and_hidden_states_are_those_of_transformers(tmp_path):
    ours = make_model().eval()
    save_weights(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids, _ = make_batch((14,))
    with torch.inference_mode():
        expected = theirs(ids, output_attentions=True, output_hidden_states=True)
        maps = ours.encoder.attention_maps(ids)
        states = ours.encoder.hidden_states(ids)
    assert torch.allclose(maps, torch.stack(expected.attentions, dim=1), atol=1e-5)
    assert (maps.triu(1) == 0).all()
    assert torch.allclose(states[-1], expected.hidden_states[-1], atol=1e-4)


def test_labels_are_the_next_tokens_one_by_one():
    # [CLS] 7 8 [SEP] 9 [SEP] and padding; then a row without padding.
    special = {2, 3, 0}
    ids = np.array([[2, 7, 8, 3, 9, 3, 0, 0], [2, 4, 5, 6, 7, 8, 9, 3]])
    predicted = ~np.isin(ids, list(special))
    labels = next_token_labels(ids, predicted)
    for row in range(2):
        for place in range(8):
            follower = int(ids[row, place + 1]) if place < 7 else 0
            assert labels[row, place] == (IGNORED_LABEL if follower in special else follower), (row, place)
    assert (labels != IGNORED_LABEL).sum() == predicted.sum()  # every ordinary token is predicted once


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_classifier_reads_the_last_real_token_whatever_the_padding(mode):
    torch.manual_seed(1)
    model = shaken(classifier(SHAPE, VOCAB, ["bad", "good"])).train(mode == "train")
    ids, mask = make_batch()
    segments = torch.zeros_like(ids)
    together = model(ids, segments, mask)
    hidden = model.encoder(ids, segments, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[row : row + 1, :length], segments[row : row + 1, :length])
        torch.testing.assert_close(together[row], alone[0], atol=2e-6, rtol=1e-5)
        by_hand = model.head.classifier(torch.tanh(model.head.pooler.dense(hidden[row, length - 1])))
        torch.testing.assert_close(together[row], by_hand, atol=2e-6, rtol=1e-5)
    changed = ids.clone()
    changed[1, 17] = 5 + (changed[1, 17] + 7) % (VOCAB - 5)  # the last real token of the second row
    moved = (model(changed, segments, mask) - together).abs().amax(1) > 1e-4
    assert moved.tolist() == [False, True, False, False]


def test_a_saved_folder_says_whether_it_is_causal(tmp_path):
    model = make_model()
    save_weights(model, tmp_path / "pretrained")
    stored = read_json(tmp_path / "pretrained" / "config.json")
    assert (stored["is_decoder"], stored["architectures"]) == (True, ["BertLMHeadModel"])
    assert load_pretraining_model(tmp_path / "pretrained").encoder.config.is_decoder
    save_weights(classifier(SHAPE, VOCAB, ["bad", "good"]), tmp_path / "classifier")
    assert load_task_model(tmp_path / "classifier").encoder.config.is_decoder
    save_weights(PretrainingModel(new_encoder(replace(SHAPE, is_decoder=False), VOCAB)), tmp_path / "both")
    assert read_json(tmp_path / "both" / "config.json")["is_decoder"] is False


def test_what_a_causal_model_cannot_answer_is_refused_with_one_sentence(tmp_path, small_tokenizer):
    torch.manual_seed(0)
    model = PretrainingModel(new_encoder(SHAPE, small_tokenizer.vocab_size))
    save_model(model, small_tokenizer, tmp_path / "pretrained")
    loaded = load(tmp_path / "pretrained")
    for ask in (lambda: loaded.fill_mask("the [MASK] was"), lambda: loaded.next_sentence("the cat", "the mat")):
        with pytest.raises(UserError, match="is a causal model"):
            ask()
    assert len(loaded.embed(["the cat sat"])) == 1
    save_model(classifier(SHAPE, small_tokenizer.vocab_size, ["bad", "good"]), small_tokenizer, tmp_path / "classifier")
    assert load(tmp_path / "classifier").predict(["the cat sat"])[0].label in ("bad", "good")
    with pytest.raises(UserError, match="is a causal classifier"):
        export(tmp_path / "classifier", tmp_path / "out", onnx=False, int8=False)
