"""The evaluate stage: every system on the official test split, read once, and examples to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bertwright.evaluate.significance import mean_and_spread, scores
from bertwright.files import digests, read_json, write_array, write_json
from bertwright.inputs.sequences import frame
from bertwright.models.checkpoints import find_model, load_pretraining_model, load_tokenizer
from bertwright.models.stored import WEIGHTS
from bertwright.pretrained import PretrainedEncoder
from bertwright.recipe import Recipe
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.pretraining import Pretraining
from bertwright.tasks.registry import find_task
from bertwright.tasks.task import Ints, Prediction, Task
from bertwright.text.overlap import evaluated_splits, evaluated_texts, pretraining_overlap, train_overlap
from bertwright.text.records import Record, read_split
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine

_SHOWN = 6
"""Examples of each kind that the report shows."""

Predictions = npt.NDArray[np.float32]


def evaluate(recipe: Recipe, run: Path, folder: Path, engine: Engine, progress: Callable[[str], None]) -> None:
    """Evaluate BERT and the baselines on the test split; write scores.json, examples.json and predictions/.

    Args:
        recipe: the whole recipe.
        run: the run folder, with finished prepare, pretrain, finetune and baselines stages.
        folder: receives the results.
        engine: the machine.
        progress: told in a sentence what is being done.
    """
    config = recipe.finetune
    task, where = find_task(config.task), f"data.{config.data}"
    source = recipe.source(config.data)
    splits = {name: read_split(source, name, task.columns) for name in ("train", *evaluated_splits(recipe))}
    train, test = splits["train"].records, splits["test"].records
    names = task.label_names(train, config.label_names, f"{where}, split train,")
    labels = task.labels(test, names, train, where)
    predictions = _all_predictions(recipe, task, test, run, engine, progress)
    write_array(folder / "predictions" / "labels.npy", labels)
    for name, values in predictions.items():
        write_array(folder / "predictions" / f"{name}.npy", values)
    progress("computing metrics and their intervals")
    known = {(record.text, record.text_pair) for record in train}
    new = np.array([(record.text, record.text_pair) not in known for record in test])
    own = recipe.finetune.encoder is None
    write_json(
        folder / "scores.json",
        {
            "task": task.name,
            "primary_metric": task.primary_metric,
            "data": config.data,
            "label_names": names,
            "splits": {name: split.summary() for name, split in splits.items()},
            "overlap": {
                "train": train_overlap(train, test),
                "pretraining": _pretraining_overlap(recipe, run, evaluated_texts(recipe, task.columns)),
            },
            **_scores(task, config.seeds, labels, predictions),
            "without_train_duplicates": {
                "count_removed": int((~new).sum()),
                **(
                    _scores(task, config.seeds, labels[new], {name: p[new] for name, p in predictions.items()})
                    if new.any()
                    else {}
                ),
            },
            "heldout": _heldout_metrics(recipe, run, engine) if own else {},
            "weights": _weights(recipe, run),
        },
    )
    tokenizer = load_tokenizer(run / "finetune" / f"seed-{config.seeds[0]}" / "model")
    answers = task.answers(predictions["bert"], names)
    examples = _example_texts([tokenizer.clean(record.text) for record in test], [names[i] for i in labels], answers)
    if own and not recipe.model.is_decoder:
        progress("filling masks and telling next sentences")
        examples |= _pretraining_examples(recipe, run, engine)
    write_json(folder / "examples.json", examples)


def _weights(recipe: Recipe, run: Path) -> dict[str, str]:
    """The SHA-256 of the weights of each evaluated model, by the path of its folder: whose results these are."""
    folders = [f"finetune/seed-{seed}/model" for seed in recipe.finetune.seeds]
    if recipe.finetune.encoder is None:
        folders.append("pretrain/model")
    return {folder: digests([run / folder / WEIGHTS])[0][1] for folder in folders}


def _pretraining_overlap(recipe: Recipe, run: Path, evaluated: frozenset[bytes]) -> dict[str, Any] | str:
    """What is known of the evaluated texts in pre-training: of this run's, or of the run that an encoder lies in."""
    encoder = recipe.finetune.encoder
    home = run if encoder is None else find_model(encoder, "encoder").resolve().parent.parent
    path = home / "prepare" / "data_report.json"
    return pretraining_overlap(read_json(path) if path.is_file() else None, evaluated)


def _all_predictions(
    recipe: Recipe, task: Task, test: list[Record], run: Path, engine: Engine, progress: Callable[[str], None]
) -> dict[str, Predictions]:
    """Predictions for the test split by system: BERT's by seed, its first seed's as bert, and the baselines'."""
    config = recipe.finetune
    predictions: dict[str, Predictions] = {}
    for seed in config.seeds:
        folder = run / "finetune" / f"seed-{seed}" / "model"
        sequences = task.encode(test, load_tokenizer(folder), config.max_length, config.truncation)
        progress(f"predicting {len(sequences):,} test texts with BERT, seed {seed}")
        predictions[f"bert-seed-{seed}"] = predict_saved(folder, sequences, config, engine)
    predictions["bert"] = predictions[f"bert-seed-{config.seeds[0]}"]
    for path in sorted((run / "baselines").glob("*.npy")):
        predictions[path.stem] = np.load(path, allow_pickle=False)
    return predictions


def _scores(task: Task, seeds: Sequence[int], labels: Ints, predictions: dict[str, Predictions]) -> dict[str, Any]:
    """Scores of each system; those of BERT are the mean over its fine-tuning seeds, intervals included."""
    found = {name: scores(task, values, labels) for name, values in predictions.items() if "seed" not in name}
    by_seed = {str(seed): scores(task, predictions[f"bert-seed-{seed}"], labels) for seed in seeds}
    for key, value in found["bert"].items():
        if isinstance(value, float):
            found["bert"][key] = float(np.mean([seed[key] for seed in by_seed.values()]))
    # Only metrics with an interval; one is missing where only one class is in the labels.
    keys = [key for key in found["bert"] if f"{key}_low" in found["bert"]]
    spread = {key: mean_and_spread([seed[key] for seed in by_seed.values()]) for key in keys}
    return {"scores": found, "bert_seeds": by_seed, "spread": spread}


def _heldout_metrics(recipe: Recipe, run: Path, engine: Engine) -> dict[str, float]:
    """Both objectives on held-out text, at the sequence length of the last phase."""
    model = load_pretraining_model(run / "pretrain" / "model").to(engine.device)
    tokenizer = Tokenizer.load(run / "prepare" / "tokenizer")
    train, heldout = (
        PreparedCorpus(run / "prepare" / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout")
    )
    training = Pretraining(recipe, model, tokenizer, train, heldout)
    training.objective.eval()
    with torch.inference_mode(), engine.autocast():
        return training.evaluate(training.objective, engine, len(recipe.pretrain.phases) - 1)


def _example_texts(texts: list[str], labels: list[str], answers: list[Prediction]) -> dict[str, Any]:
    """Texts drawn at random, and the most confident mistakes, with label and prediction by name."""
    confidence = np.array([answer.score for answer in answers])
    wrong = np.array([answer.label != label for answer, label in zip(answers, labels, strict=True)])
    mistakes = np.argsort(np.where(wrong, -confidence, np.inf), kind="stable")[: min(_SHOWN, int(wrong.sum()))]
    drawn = np.random.default_rng(0).choice(len(texts), min(_SHOWN, len(texts)), replace=False)

    def described(index: int) -> dict[str, Any]:
        answer = answers[index]
        return {
            "text": " ".join(texts[index].split()),
            "label": labels[index],
            "prediction": answer.label,
            "score": answer.score,
        }

    return {"classified": [described(int(i)) for i in drawn], "mistakes": [described(int(i)) for i in mistakes]}


def _pretraining_examples(recipe: Recipe, run: Path, engine: Engine) -> dict[str, Any]:
    """Filled masks, and pairs if the model was trained on pairs, from held-out text."""
    encoder = PretrainedEncoder(run / "pretrain" / "model", engine.device)
    heldout = PreparedCorpus(run / "prepare" / "heldout.arrow", encoder.tokenizer.fingerprint)
    return {
        "filled_masks": _filled_masks(encoder, heldout),
        "next_sentence": _example_pairs(encoder, heldout) if recipe.pretrain.next_sentence else [],
    }


def _sentences(heldout: PreparedCorpus, low: int, high: int) -> list[npt.NDArray[np.int64]]:
    """Positions (start, length, number) of held-out sentences with a length in [low, high), spread over documents."""
    lengths = heldout.sentence_lengths.astype(np.int64)
    starts = heldout.sentence_starts
    document_end = np.zeros(len(lengths), np.bool_)
    document_end[heldout.document_offsets[1:] - 1] = True
    fit = np.flatnonzero((lengths >= low) & (lengths < high) & ~document_end)
    picked = np.random.default_rng(7).choice(fit, min(_SHOWN, len(fit)), replace=False)
    return [np.array([starts[i], lengths[i], i]) for i in picked]


def _filled_masks(encoder: PretrainedEncoder, heldout: PreparedCorpus) -> list[dict[str, Any]]:
    """Held-out sentences with one whole word masked, and the model's predictions for it."""
    tokenizer = encoder.tokenizer
    rng = np.random.default_rng(11)
    examples = []
    for start, length, _ in _sentences(heldout, 12, min(40, encoder.model.encoder.max_length - 1)):
        ids = heldout.spans(np.array([start]), np.array([length]))[0].astype(np.int64)
        continues = np.append(tokenizer.is_continuation[ids], False)
        words = [
            i
            for i in range(len(ids))
            if not continues[i] and not continues[i + 1] and tokenizer.tokens[ids[i]].isalpha()
        ]
        if not words:
            continue
        chosen = int(rng.choice(words))
        masked = ids.copy()
        masked[chosen] = tokenizer.mask_id
        predictions = encoder.fill_mask(frame(tokenizer, masked).input_ids, 5)[0]
        examples.append(
            {
                "text": tokenizer.decode(masked.tolist()),
                "predictions": [{"token": one.token, "score": one.score} for one in predictions],
                "answer": tokenizer.tokens[ids[chosen]],
            }
        )
    return examples


def _example_pairs(encoder: PretrainedEncoder, heldout: PreparedCorpus) -> list[dict[str, Any]]:
    """Held-out sentences with their successor, and with the successor of another."""
    tokenizer = encoder.tokenizer
    positions = encoder.model.encoder.max_length
    chosen = _sentences(heldout, 8, min(40, positions // 2))
    starts, lengths = heldout.sentence_starts, heldout.sentence_lengths
    follow = [int(i) + 1 for _, _, i in chosen]
    examples = []
    for number, (start, length, _) in enumerate(chosen):
        is_next = number % 2 == 0
        other = follow[number] if is_next else follow[(number + 1) % len(follow)]
        a, b = heldout.spans(np.array([start, starts[other]]), np.array([length, lengths[other]]))
        b = b[: min(80, positions - len(a) - 3)]
        examples.append(
            {
                "a": tokenizer.decode(a.tolist()),
                "b": tokenizer.decode(b.tolist()),
                "is_next": is_next,
                "probability_next": encoder.next_sentence(frame(tokenizer, a, b)),
            }
        )
    return examples


def collect_results(recipe: Recipe, run: Path, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put results.json together from the stages' results.

    Args:
        recipe: the whole recipe.
        run: the run folder.
        done: the stage.json of each finished stage, with its fingerprint and how long it took.
    """
    environments = {stage: read_json(run / stage / "environment.json") for stage in done}
    environment = environments["finetune"]  # of the models that are evaluated
    stage_seconds = {stage: found["seconds"] for stage, found in done.items()}
    return {
        "recipe": recipe.name,
        "commit": environment["commit"],
        "seed": recipe.seed,
        "machine": environment["machine"],
        "seconds": sum(stage_seconds.values()),
        "stage_seconds": stage_seconds,
        "fingerprints": {stage: found["fingerprint"] for stage, found in done.items()},
        "environments": environments,
        "published": dict(recipe.evaluate.published),
        **read_json(run / "evaluate" / "scores.json"),
    }
