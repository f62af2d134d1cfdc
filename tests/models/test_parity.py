"""The model against Hugging Face's, with the same weights: an independent reference for every number."""

import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertwright.errors import UserError
from bertwright.files import read_json, write_json
from bertwright.models.bert import attend
from bertwright.models.checkpoints import (
    FORMATS,
    load_pretraining_model,
    new_encoder,
    save_model,
    save_weights,
    to_hugging_face,
)
from bertwright.models.heads import PretrainingModel, cross_entropy
from bertwright.recipe import ModelConfig
from bertwright.tasks.registry import load_task_model
from bertwright.text.wordpiece import Tokenizer
from small_models import SHAPE, VOCAB, classifier, relative, shaken

NAMES = FORMATS["bert"].names


def make_model(seed=0):
    torch.manual_seed(seed)
    return shaken(PretrainingModel(new_encoder(SHAPE, VOCAB)))


def make_batch(seed=0, lengths=(31, 18, 5, 1)):
    rng = np.random.default_rng(seed)
    batch, seq = len(lengths), max(lengths)
    ids = torch.from_numpy(rng.integers(5, VOCAB, (batch, seq)))
    mask = torch.from_numpy(np.arange(seq) < np.array(lengths)[:, None])
    ids[~mask] = 0
    segments = torch.from_numpy((np.arange(seq) >= np.array(lengths)[:, None] // 2).astype(np.int64)) * mask
    labels = torch.where(mask & torch.from_numpy(rng.random((batch, seq)) < 0.3), ids, -100)
    labels[0, 1] = ids[0, 1]
    return ids, segments, mask, labels, torch.from_numpy(rng.integers(0, 2, batch))


@pytest.fixture
def pair(tmp_path):
    ours = make_model()
    save_weights(ours, tmp_path)
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path, attn_implementation="eager")
    return ours, theirs


def test_a_label_is_right_if_no_other_class_has_as_high_a_logit_and_one_that_is_ignored_never():
    logits = torch.tensor([[1.0, 3.0, 2.0], [3.0, 1.0, 3.0], [0.0, 5.0, 1.0], [2.0, 2.0, 1.0], [9.0, 0.0, 0.0]])
    loss = cross_entropy(logits, torch.tensor([1, 0, 2, 2, -100]))
    assert (loss.correct, loss.count) == (1, 4)  # the second is a tie: the model has not decided


@pytest.mark.parametrize("lengths", [(31, 31, 31), (31, 18, 5, 1)], ids=["full", "padded"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_logits_losses_and_gradients_equal_transformers(pair, lengths, mode):
    ours, theirs = pair
    ours.train(mode == "train")
    theirs.train(mode == "train")
    ids, segments, mask, labels, is_next = make_batch(lengths=lengths)
    reference = theirs(ids, mask.long(), segments, labels=labels, next_sentence_label=is_next)
    mlm_logits, nsp_logits = ours(ids, segments, mask)
    assert relative(mlm_logits[mask], reference.prediction_logits[mask]) < 1e-5
    assert relative(nsp_logits, reference.seq_relationship_logits) < 1e-5

    positions = torch.nonzero(labels.flatten() != -100).flatten()
    chosen_logits, nsp_logits = ours(ids, segments, mask, positions)
    mlm = cross_entropy(chosen_logits, labels.flatten()[positions])
    nsp = cross_entropy(nsp_logits, is_next)
    assert (mlm.count, nsp.count) == (len(positions), len(is_next))
    loss = mlm.total / len(positions) + nsp.total / len(is_next)
    assert relative(loss, reference.loss) < 1e-5
    predicted = reference.prediction_logits.flatten(0, 1)[positions].argmax(-1)
    assert mlm.correct == (predicted == labels.flatten()[positions]).sum()

    loss.backward()
    reference.loss.backward()
    their_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    largest = max(g.abs().max() for g in their_gradients.values())
    for name, parameter in ours.named_parameters():
        expected = their_gradients[to_hugging_face(name, NAMES)]
        assert (parameter.grad - expected).abs().max() / largest < 1e-5, name
    assert len(list(ours.parameters())) == len(their_gradients)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("positions", [9, 3])
def test_attention_is_that_of_pytorch(causal, positions):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8).double()
    query = query[:, :, :positions]
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])[:, None, None, :]
    reference_mask = torch.ones(positions, 9, dtype=torch.bool).tril() if causal else mask
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, reference_mask)
    found = attend(query, key, value, None if causal else mask, 0.0, causal)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_weights_go_to_transformers_and_back_to_the_bit(pair, tmp_path):
    ours, theirs = pair
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_pretraining_model(tmp_path / "theirs")
    for (name, mine), (_, returned) in zip(ours.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(mine, returned), name


def test_the_output_matrix_stays_tied_after_loading(pair):
    _, theirs = pair
    embedding = theirs.bert.embeddings.word_embeddings.weight
    assert theirs.cls.predictions.decoder.weight.data_ptr() == embedding.data_ptr()


def test_each_of_our_names_is_one_of_transformers_and_old_names_are_read(pair, tmp_path):
    ours, theirs = pair
    translated = [to_hugging_face(name, NAMES) for name, _ in ours.named_parameters()]
    assert sorted(translated) == sorted(name for name, _ in theirs.named_parameters())
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    stored = load_file(tmp_path / "model.safetensors")
    renamed = {re.sub(r"LayerNorm\.\w+$", lambda found: old[found[0]], name): value for name, value in stored.items()}
    assert renamed.keys() != stored.keys()
    save_file(renamed, tmp_path / "model.safetensors")
    back = load_pretraining_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), back.parameters(), strict=True))


def test_a_classifier_equals_transformers_with_its_label_names(tmp_path):
    torch.manual_seed(1)
    ours = classifier(SHAPE, VOCAB, ["bad", "fair", "good"]).eval()
    save_weights(ours, tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids, segments, mask, _, _ = make_batch()
    with torch.no_grad():
        assert relative(ours(ids, segments, mask), theirs(ids, mask.long(), segments).logits) < 1e-5
    assert theirs.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    again = load_task_model(tmp_path)
    assert again.label_names == ["bad", "fair", "good"]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("lengths", [(31, 31), (31, 7)], ids=["full", "padded"])
def test_the_first_positions_are_the_same_when_only_they_are_computed(lengths):
    bert = make_model().encoder
    ids, segments, mask, _, _ = make_batch(lengths)
    outcomes = []
    for positions in (None, 1, 3):
        bert.zero_grad()
        hidden = bert(ids, segments, mask, positions)
        assert hidden.shape[1] == (positions or ids.shape[1])
        hidden[:, 0].sin().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in bert.parameters() if p.grad is not None])
        outcomes.append((hidden[:, 0].detach(), gradients))
    for hidden, gradients in outcomes[1:]:
        assert relative(hidden, outcomes[0][0]) < 1e-5
        assert relative(gradients, outcomes[0][1]) < 1e-5


def test_padding_and_batch_mates_do_not_change_outputs():
    model = make_model().eval()
    ids, segments, mask, _, _ = make_batch()
    with torch.no_grad():
        together, _ = model(ids, segments, mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            alone, _ = model(ids[row : row + 1, :length], segments[row : row + 1, :length])
            torch.testing.assert_close(together[row, :length], alone[0], atol=2e-6, rtol=1e-5)


def test_padding_gives_no_nan_in_bfloat16():
    model = make_model()
    ids, segments, mask, labels, _ = make_batch(lengths=(33, 32, 17, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(ids, segments, mask)
        loss = cross_entropy(logits, labels)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_initial_weights_follow_the_paper():
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024)
    model = PretrainingModel(new_encoder(config, 5000))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif parameter.ndim == 1:
            assert (parameter == 0).all(), name
        else:
            assert parameter.abs().max() <= 0.04, name
            # A normal cut at two standard deviations has 0.88 of its deviation left.
            assert 0.0165 < parameter.std() < 0.0187, name
    assert (model.encoder.token_embeddings.weight[0] == 0).all()


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 4.4), ("mini", 11.2), ("small", 28.8), ("medium", 41.4), ("base", 109.5)]
)
def test_sizes_have_the_published_number_of_parameters(size, millions, recipes):
    import yaml

    config = ModelConfig(**yaml.safe_load((recipes / "models" / f"{size}.yaml").read_text()))
    with torch.device("meta"):
        model = PretrainingModel(new_encoder(config, 30_522))
    parameters = [*model.encoder.parameters(), *model.pooler.parameters()]
    assert sum(p.numel() for p in parameters) / 1e6 == pytest.approx(millions, abs=0.06)


class TestAFolderThatIsNoModel:
    def test_without_config(self, tmp_path):
        with pytest.raises(UserError, match=r"no config\.json"):
            load_pretraining_model(tmp_path)

    def test_of_another_architecture(self, tmp_path):
        write_json(tmp_path / "config.json", {"model_type": "roberta"})
        with pytest.raises(UserError, match="roberta"):
            load_pretraining_model(tmp_path)

    def test_with_a_pickle_only(self, tmp_path):
        save_weights(make_model(), tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match="pickle"):
            load_pretraining_model(tmp_path)

    def test_cut_short(self, tmp_path):
        save_weights(make_model(), tmp_path)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match="cut short"):
            load_pretraining_model(tmp_path)

    def test_with_a_size_that_does_not_fit(self, tmp_path):
        save_weights(make_model(), tmp_path)
        write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "intermediate_size": 100})
        with pytest.raises(UserError, match="has shape"):
            load_pretraining_model(tmp_path)

    def test_with_a_tensor_missing(self, tmp_path):
        model = make_model()
        save_weights(model, tmp_path)
        save_file({"bert.pooler.dense.bias": torch.zeros(48)}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="lacks the tensor"):
            load_pretraining_model(tmp_path)


def test_a_saved_folder_opens_in_the_fill_mask_pipeline(tmp_path, small_tokenizer: Tokenizer):
    model = PretrainingModel(new_encoder(SHAPE, small_tokenizer.vocab_size))
    save_model(model, small_tokenizer, tmp_path)
    fill = transformers.pipeline("fill-mask", model=str(tmp_path))
    assert len(fill("the [MASK] was", top_k=3)) == 3
