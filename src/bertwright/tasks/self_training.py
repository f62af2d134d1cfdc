"""Self-training: a fine-tuned teacher predicts labels for unlabelled texts, and another model is trained on these, too.

Du et al. 2021, "Self-training Improves Pre-training for Natural Language Understanding"; with `co_training`, a linear
model predicts beside the teacher (Blum and Mitchell 1998).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from bertwright.arrays import Floats, Ints
from bertwright.errors import UserError
from bertwright.files import write_array
from bertwright.finetune_settings import FinetuneConfig
from bertwright.inputs.sequences import Sequence
from bertwright.recipe import Recipe
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.sequence import Classification
from bertwright.tasks.task import Task
from bertwright.text.corpus import parse_corpus_name, read_documents
from bertwright.text.holdout import digest
from bertwright.text.overlap import LEFT_OUT, check_entry, evaluated_texts
from bertwright.text.records import Record
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine
from bertwright.train.loop import Notice


def check_unlabelled(recipe: Recipe) -> None:
    """Read the unlabelled texts once, if the recipe names any: a fault in them is said before training.

    Raises:
        UserError: if they can't be read, or are evaluated on.
    """
    entry = recipe.finetune.unlabelled
    if entry is None:
        return
    check_entry(recipe, entry, "finetune.unlabelled")
    name, splits = parse_corpus_name(entry)
    for _ in read_documents(recipe.source(name), splits):
        pass


def read_unlabelled(
    recipe: Recipe, task: Task, tokenizer: Tokenizer, notice: Notice
) -> tuple[list[str], list[Sequence]]:
    """The texts of `finetune.unlabelled` that are short enough, and their model inputs.

    Args:
        recipe: the whole recipe.
        task: the recipe's.
        tokenizer: the encoder's.
        notice: told how many there are.

    Raises:
        UserError: if the task has no probabilities to predict, the source cannot be read, or all texts are too long.
    """
    config = recipe.finetune
    if not isinstance(task, Classification):
        raise UserError(f"finetune.unlabelled is for classification; leave it out with finetune.task {task.name}")
    assert config.unlabelled is not None
    source, splits = parse_corpus_name(config.unlabelled)
    evaluated = evaluated_texts(recipe, task.columns)
    found = [document.text for document in read_documents(recipe.source(source), splits)]
    texts = [text for text in found if text.strip() and digest(text) not in evaluated]
    if len(texts) < len(found):
        empty = sum(not text.strip() for text in found)
        notice(f"left out {empty:,} empty texts, and {len(found) - len(texts) - empty:,} {LEFT_OUT}")
    notice(f"encoding {len(texts):,} unlabelled texts")
    records = [Record(str(number), text) for number, text in enumerate(texts)]
    encoded = cast(list[Sequence], task.encode(records, tokenizer, config.max_length, config.training_truncation))
    short = [i for i, sequence in enumerate(encoded) if len(sequence) <= config.unlabelled_max_length]
    if not short:
        raise UserError(
            f"{config.unlabelled} has no text of at most {config.unlabelled_max_length} tokens; raise "
            "finetune.unlabelled_max_length"
        )
    return [texts[i] for i in short], [encoded[i] for i in short]


def pseudo_labels(
    teacher: Path,
    texts: list[str],
    sequences: list[Sequence],
    labelled: tuple[list[str], Ints],
    config: FinetuneConfig,
    engine: Engine,
    notice: Notice,
) -> Floats:
    """The teacher's probabilities for unlabelled texts, kept in `teacher`/pseudo_labels.npy.

    Args:
        teacher: the folder with its model.
        texts: unlabelled.
        sequences: their model inputs.
        labelled: texts and classes of the training set, for the linear model of co-training.
        config: of fine-tuning.
        engine: the machine.
        notice: told what is predicted.

    Returns:
        float32 (texts, classes).
    """
    path = teacher / "pseudo_labels.npy"
    with engine.together():
        if engine.is_main and not path.exists():
            notice(f"the teacher predicts {len(texts):,} unlabelled texts")
            predicted = predict_saved(teacher / "model", sequences, config, engine)
            if config.co_training:
                from bertwright.tasks.baselines import nb_logistic_regression, splits_words  # takes seconds to load

                notice("NB-weighted logistic regression, trained on the same labels, predicts them, too")
                linear = nb_logistic_regression(characters=not splits_words(labelled[0])).fit(*labelled)
                predicted = (predicted + linear.predict_proba(texts).astype(np.float32)) / 2
            write_array(path, predicted)
    stored: Floats = np.load(path, allow_pickle=False)
    return stored
