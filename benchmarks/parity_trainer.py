"""Fine-tuning as users of transformers write it, with a Bert...For... class and Trainer; for finetune_parity.py.

Texts are tokenized with transformers' own tokenizer, and features are those of its examples: pairs as two segments;
a word's tag at its first word piece; questions with windows of the context that share 128 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from bertwright.arrays import Ints
from bertwright.inputs.questions import OVERLAP
from bertwright.recipe import FinetuneConfig
from bertwright.tasks.tagged_text import tokens_of
from bertwright.text.records import Record

Feature = dict[str, Any]
IGNORED = -100
"""A label that transformers' losses leave out."""


class Features(Dataset[Feature]):
    """Features as Trainer reads them.

    Args:
        rows: a dict each.
    """

    def __init__(self, rows: list[Feature]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Feature:
        return self.rows[number]


def of_texts(tokenizer: Any, records: Sequence[Record], labels: Ints, max_length: int) -> list[Feature]:
    """Texts or pairs with a class or a number each."""
    pairs = None if records[0].text_pair is None else [record.text_pair for record in records]
    found = tokenizer([record.text for record in records], pairs, truncation=True, max_length=max_length)
    return [{**_row(found, i), "labels": label} for i, label in enumerate(labels.tolist())]


def of_tags(tokenizer: Any, records: Sequence[Record], labels: Ints, max_length: int) -> list[Feature]:
    """Words with their tags at the first word piece of each."""
    words = [list(tokens_of(record)) for record in records]
    found = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    rows = []
    for i, tags in enumerate(labels):
        numbers = found.word_ids(i)
        before = [None, *numbers[:-1]]
        own = [
            IGNORED if number is None or number == last else int(tags[number])
            for number, last in zip(numbers, before, strict=True)
        ]
        rows.append({**_row(found, i), "labels": own})
    return rows


def of_questions(tokenizer: Any, records: Sequence[Record], labels: Ints, max_length: int) -> list[Feature]:
    """Windows of the contexts, with the places of the first answer; both at [CLS] where it is not in the window."""
    found = tokenizer(
        [record.text_pair for record in records],
        [record.text for record in records],
        truncation="only_second",
        max_length=max_length,
        stride=OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows = []
    for i, number in enumerate(found["overflow_to_sample_mapping"]):
        first = last = 0
        inside = [place for place, segment in enumerate(found.sequence_ids(i)) if segment == 1]
        offsets = found["offset_mapping"][i]
        for text, start in labels[number]["answers"][:1]:
            end = start + len(text)
            if offsets[inside[0]][0] <= start and end <= offsets[inside[-1]][1]:
                first = max(place for place in inside if offsets[place][0] <= start)
                last = min(place for place in inside if offsets[place][1] >= end)
        rows.append({**_row(found, i), "start_positions": first, "end_positions": last})
    return rows


def _row(found: Any, number: int) -> Feature:
    return {name: found[name][number] for name in ("input_ids", "token_type_ids", "attention_mask")}


MODELS: dict[str, tuple[Any, Callable[..., list[Feature]], Any]] = {
    "classification": (
        BertForSequenceClassification,
        of_texts,
        DataCollatorWithPadding,
    ),
    "regression": (BertForSequenceClassification, of_texts, DataCollatorWithPadding),
    "token-classification": (
        BertForTokenClassification,
        of_tags,
        DataCollatorForTokenClassification,
    ),
    "question-answering": (
        BertForQuestionAnswering,
        of_questions,
        DataCollatorWithPadding,
    ),
}
"""Class, features and collator, by our name of the task."""


def train(
    config: FinetuneConfig,
    encoder: Path,
    names: Sequence[str],
    training: tuple[Sequence[Record], Ints],
    validation: tuple[Sequence[Record], Ints],
    folder: Path,
    *,
    fast: bool,
) -> Path:
    """Fine-tune with Trainer, evaluated after each epoch; the one with the lowest validation loss is kept.

    Args:
        config: whose settings both sides have.
        encoder: a model folder to start from.
        names: of the classes.
        training: records and labels.
        validation: the same of the validation set.
        folder: to work in.
        fast: whether it computes in bf16, on batches of like length; the default is float32 in random order.

    Returns:
        The folder of the fine-tuned model.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model_class, features, collator = MODELS[config.task]
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    sets = [Features(features(tokenizer, *part, config.max_length)) for part in (training, validation)]
    (seed,) = config.seeds
    set_seed(seed)
    own: dict[str, Any] = {} if config.task == "question-answering" else {"id2label": dict(enumerate(names))}
    if config.task == "regression":
        own["problem_type"] = "regression"
    model = model_class.from_pretrained(encoder, dtype=torch.float32, **own)
    optimizer = config.optimizer
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder / "checkpoints"),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            learning_rate=optimizer.learning_rate,
            warmup_steps=optimizer.warmup_ratio,  # a number below 1 is a ratio
            weight_decay=optimizer.weight_decay,
            adam_beta1=optimizer.beta1,
            adam_beta2=optimizer.beta2,
            adam_epsilon=optimizer.epsilon,
            max_grad_norm=optimizer.max_grad_norm,
            seed=seed,
            bf16=fast,
            use_cpu=not torch.cuda.is_available(),  # which bf16 without a GPU asks for
            train_sampling_strategy="group_by_length" if fast else "random",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_only_model=True,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=sets[0],
        eval_dataset=sets[1],
        data_collator=collator(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    target = folder / "model"
    trainer.save_model(str(target))
    return target
