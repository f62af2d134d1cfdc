"""Heads for spans and choices: logits, losses and folders are those of `transformers`."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMultipleChoice, BertForQuestionAnswering

from bertwright.errors import UserError
from bertwright.models.answer_heads import ChoiceHead, SpanHead, require_segments
from bertwright.models.checkpoints import new_encoder, save_weights
from bertwright.models.heads import TaskModel
from bertwright.recipe import ModelConfig
from bertwright.tasks.registry import load_task_model
from bertwright.tasks.supervised import TaskObjective
from small_models import SHAPE, VOCAB, relative, shaken


def span_model():
    return shaken(TaskModel(new_encoder(SHAPE, VOCAB), SpanHead(48), ["start", "end"], "question-answering")).eval()


def choice_model():
    return shaken(TaskModel(new_encoder(SHAPE, VOCAB), ChoiceHead(48, 0.0), ["0", "1", "2"], "multiple-choice")).eval()


def batch(rows, lengths, width):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCAB, (rows, width), generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    types = ((torch.arange(width) > 4) & mask).long().expand(rows, width)
    return {"input_ids": torch.where(mask, ids, 0), "token_type_ids": types, "attention_mask": mask.long()}


def test_span_logits_and_loss_equal_those_of_transformers(tmp_path):
    model = span_model()
    save_weights(model, tmp_path)
    theirs = BertForQuestionAnswering.from_pretrained(tmp_path).eval()
    inputs = batch(3, [17, 17, 17], 17)
    starts, ends = torch.tensor([3, 0, 16]), torch.tensor([5, 0, 16])
    targets = torch.stack([nn.functional.one_hot(starts, 17), nn.functional.one_hot(ends, 17)], -1).float()
    with torch.no_grad():
        expected = theirs(**inputs, start_positions=starts, end_positions=ends)
        logits = model(**inputs)
        loss = TaskObjective(model)(**inputs, targets=targets)["label"]
    assert relative(logits, torch.stack([expected.start_logits, expected.end_logits], -1)) < 1e-5
    assert loss.total.item() / loss.count.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert loss.count == 3
    predicted = logits.argmax(1)
    assert loss.correct == ((predicted[:, 0] == starts) & (predicted[:, 1] == ends)).sum()


def test_a_span_s_loss_does_not_depend_on_padding():
    model = span_model()
    wide = batch(2, [9, 20], 32)
    targets = torch.zeros(2, 32, 2)
    targets[:, 2, 0] = targets[:, 4, 1] = 1.0
    with torch.no_grad():
        both = TaskObjective(model)(**wide, targets=targets)["label"]
        alone = [
            TaskObjective(model)(**{k: v[i : i + 1, :n] for k, v in wide.items()}, targets=targets[i : i + 1, :n])[
                "label"
            ]
            for i, n in enumerate((9, 20))
        ]
        expected = sum(one.total.item() for one in alone)
        assert both.total.item() == pytest.approx(expected, rel=1e-5)
        logits = model(**wide)
        assert relative(logits[0, :9], model(**{k: v[:1, :9] for k, v in wide.items()})[0]) < 1e-5
    assert logits[0, 9:].max() < -1e30


def test_a_sequence_without_a_target_is_not_scored():
    model = span_model()
    targets = torch.zeros(2, 17, 2)
    targets[1, 3] = 1.0
    inputs = batch(2, [17, 17], 17)
    with torch.no_grad():
        loss = TaskObjective(model)(**inputs, targets=targets)["label"]
        alone = TaskObjective(model)(**{k: v[1:] for k, v in inputs.items()}, targets=targets[1:])["label"]
    assert (loss.count, model.head.scored(targets)) == (1, 1)
    assert loss.total.item() == pytest.approx(alone.total.item(), rel=1e-5)


def test_choice_logits_and_loss_equal_those_of_transformers(tmp_path):
    model = choice_model()
    save_weights(model, tmp_path)
    theirs = BertForMultipleChoice.from_pretrained(tmp_path).eval()
    lengths = [9, 12, 17, 17, 10, 8]
    inputs = batch(6, lengths, 17)
    right = torch.tensor([2, 0])
    targets = nn.functional.one_hot(right, 3).float().repeat_interleave(3, 0)
    with torch.no_grad():
        expected = theirs(**{k: v.view(2, 3, 17) for k, v in inputs.items()}, labels=right)
        logits = model(**inputs)
        loss = TaskObjective(model)(**inputs, targets=targets)["label"]
    assert logits.shape == (6, 1)
    assert relative(logits.view(2, 3), expected.logits) < 1e-5
    assert loss.total.item() / loss.count.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert (loss.count, model.head.scored(targets)) == (2, 2)
    assert model.head.scored(torch.zeros_like(targets)) == 0
    assert loss.correct == (expected.logits.argmax(1) == right).sum()


@pytest.mark.parametrize(
    ("theirs", "task"), [(BertForQuestionAnswering, "question-answering"), (BertForMultipleChoice, "multiple-choice")]
)
def test_folders_of_transformers_are_read(theirs, task, tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    saved = shaken(theirs(config)).eval()
    saved.save_pretrained(tmp_path)
    model = load_task_model(tmp_path).eval()
    assert model.task == task
    inputs = batch(2, [17, 17], 17)
    with torch.no_grad():
        if task == "question-answering":
            expected = saved(**inputs)
            expected = torch.stack([expected.start_logits, expected.end_logits], -1)
        else:
            expected = saved(**{k: v[None] for k, v in inputs.items()}).logits.view(2, 1)
        assert relative(model(**inputs), expected) < 1e-5


def test_an_encoder_with_one_segment_reads_no_pairs():
    shape = ModelConfig(**{**vars(SHAPE), "type_vocab_size": 1})
    with pytest.raises(UserError, match=r"one segment \(type_vocab_size\), and a context and a choice are two"):
        require_segments(new_encoder(shape, VOCAB), "a context and a choice")
    require_segments(new_encoder(SHAPE, VOCAB), "a context and a choice")


def test_a_threshold_is_kept_in_the_folder(tmp_path):
    model = span_model()
    model.notes = {"no_answer_threshold": -1.25}
    save_weights(model, tmp_path)
    assert load_task_model(tmp_path).notes == {"no_answer_threshold": -1.25}
    model.notes = {}
    save_weights(model, tmp_path)
    assert load_task_model(tmp_path).notes == {}
    model.notes = {"no_answer_threshold": "low"}
    save_weights(model, tmp_path)
    with pytest.raises(UserError, match="no_answer_threshold 'low'; it must be a number"):
        load_task_model(tmp_path)
