"""The benchmark of fine-tuning's speed: both sides compute the same loss on the same batch."""

import numpy as np
import pytest
import torch
import transformers

import finetune_speed
from bertwright.models.checkpoints import new_encoder, save_weights
from bertwright.models.heads import TaskModel
from bertwright.recipe import FinetuneConfig
from bertwright.tasks.registry import find_task
from bertwright.tasks.supervised import Finetuning, Validation
from bertwright.text.records import Record
from small_models import SHAPE

WORDS = "the rain fell over old roofs and nobody came to look for it".split()


def records(task):
    """Texts of different lengths with labels for a task."""
    if task == "classification":
        return [Record(str(n), " ".join(WORDS[: 4 + n]), label="ab"[n % 2]) for n in range(6)]
    if task == "question-answering":
        text = " ".join(WORDS)  # all of one length: padding takes part in the softmax of transformers over positions
        return [
            Record(str(n), text, text_pair="the rain", answers=((word, text.index(word)),))
            for n, word in enumerate(("rain", "roofs", "nobody came"))
        ]
    found = []
    for n in range(5):
        words = WORDS[: 5 + n]
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        places = tuple((int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True))
        tags = tuple("B-x" if (number + n) % 3 == 0 else "O" for number in range(len(words)))
        found.append(Record(str(n), " ".join(words), words=places, tags=tags))
    return found


@pytest.mark.parametrize("name", list(finetune_speed.THEIRS))
def test_both_sides_have_the_same_loss(name, small_tokenizer, tmp_path):
    task, rows = find_task(name), records(name)
    names = task.label_names(rows, None, "texts")
    labels = task.labels(rows, names, rows, "texts")
    config = FinetuneConfig(data="texts", task=name, batch_size=len(rows), max_length=48)
    inputs = task.encode(rows, small_tokenizer, config.max_length, "head")
    torch.manual_seed(0)
    encoder = new_encoder(SHAPE, small_tokenizer.vocab_size, small_tokenizer.pad_id)
    model = TaskModel(encoder, task.head(encoder, names, 0.0), names, task.name).eval()
    training = task.examples(inputs, labels, names, config.max_length)
    job = Finetuning(task, config, 0, model, small_tokenizer, training, Validation(inputs, labels), tmp_path / "best")
    save_weights(model, tmp_path)
    theirs = getattr(transformers, finetune_speed.THEIRS[name]).from_pretrained(tmp_path).eval()
    (batch,) = job.micro_batches(0, 0, 0, 1)
    texts = training.take(job.epoch_batches(0)[0])
    longest = max(map(len, texts.sequences))
    built = {key: value[:, :longest] for key, value in finetune_speed.collate(texts.sequences, encoder).items()}
    given = finetune_speed.labels_of(name, texts.targets, built["input_ids"].shape[1])
    with torch.no_grad():
        found = job.objective(**batch)["label"]
        expected = theirs(**{**built, "attention_mask": built["attention_mask"].long()}, **given).loss
    assert float(found.total) / job.counts(batch)["label"] == pytest.approx(float(expected), rel=1e-5)
