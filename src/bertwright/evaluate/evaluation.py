"""The evaluate stage: every system on the official test split, read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from bertwright.arrays import Ints
from bertwright.errors import UserError
from bertwright.evaluate.calibration import reliability
from bertwright.evaluate.comparison import save_labels
from bertwright.evaluate.examples import example_texts, pretraining_examples
from bertwright.evaluate.heldout import heldout_results
from bertwright.evaluate.significance import mean_and_spread, scores
from bertwright.files import digests, read_json, write_array, write_json
from bertwright.finetune_settings import FinetuneConfig
from bertwright.models.checkpoints import (
    find_model,
    load_tokenizer,
    model_config,
    read_config,
)
from bertwright.models.stored import WEIGHTS
from bertwright.recipe import Recipe
from bertwright.tasks.finetune import WHAT_TO_TRY, no_better_than_chance
from bertwright.tasks.prediction import predict_saved
from bertwright.tasks.registry import recipe_task, task_of_labels
from bertwright.tasks.resampling import Units, parts_by_class, run_length
from bertwright.tasks.task import Task
from bertwright.text.overlap import (
    content_digest,
    evaluated_splits,
    group_overlap,
    in_train,
    pretraining_overlap,
    texts_of,
    train_overlap,
)
from bertwright.text.records import LabelledSplit, Record, read_split
from bertwright.train.engine import Engine

Predictions = npt.NDArray[np.float32]


def evaluate(recipe: Recipe, run: Path, folder: Path, engine: Engine, progress: Callable[[str], None]) -> None:
    """Evaluate the encoder on held-out text, and BERT and the baselines on the test split.

    Args:
        recipe: the whole recipe.
        run: the run folder, with all stages finished that the recipe has before this one.
        folder: receives scores.json and examples.json, with labels also predictions/.
        engine: the machine.
        progress: told in a sentence what is being done.
    """
    own = recipe.finetune.encoder is None
    scores, examples = ({}, {}) if recipe.finetune.data == "" else _test_results(recipe, run, folder, engine, progress)
    if own:
        progress("evaluating on held-out text")
    scores |= {**(heldout_results(recipe, run, engine) if own else {"heldout": {}}), "weights": _weights(recipe, run)}
    write_json(folder / "scores.json", scores)
    if own and not model_config(read_config(run / "pretrain" / "model")).is_decoder:
        progress("filling masks and telling next sentences")
        examples |= pretraining_examples(recipe, run, engine)
    write_json(folder / "examples.json", examples)


def _test_results(
    recipe: Recipe, run: Path, folder: Path, engine: Engine, progress: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All systems on the test split: what scores.json and examples.json have of it; predictions/ is written."""
    config = recipe.finetune
    task, where = recipe_task(recipe), f"data.{config.data}"
    source = recipe.source(config.data)
    splits = {name: read_split(source, name, task.columns) for name in ("train", *evaluated_splits(recipe))}
    train, test = (splits[name].records for name in list(splits)[:2])
    names = task.label_names(train, config.label_names, f"{where}, split train,")
    task = task_of_labels(task, config, names)
    labels = task.labels(test, names, train, where)
    predictions = _all_predictions(recipe, task, test, run, engine, progress)
    units = units_of(task, test, predictions, labels)
    save_labels(folder / "predictions", labels)
    if units.groups is not None:
        write_array(folder / "groups.npy", units.groups)
    for name, values in predictions.items():
        write_array(folder / "predictions" / f"{name}.npy", values)
    progress(f"computing metrics, and their intervals over {units.count:,} {units.kind}")
    scored = _scores(task, config.seeds, labels, predictions, units)
    found = {
        "task": task.name,
        "primary_metric": _comparable(task, config, scored["scores"], f"{where}, split {list(splits)[1]}", progress),
        "data": config.data,
        "label_names": names,
        "splits": {name: split.summary() for name, split in splits.items()},
        "test_digest": content_digest(test),
        "overlap": _overlap(recipe, run, splits),
        "positive_label": task.positive_label(names),
        "most_frequent_label": most_frequent(task.labels(train, names, train, where), names),
        "resampled": units.summary(),
        **scored,
        "warnings": _warnings(task, config.seeds, labels, predictions, names, run),
        "left_out": _read(run / "baselines" / "left_out.json"),
        "calibration": reliability(predictions["bert"], labels),
        "without_train_duplicates": _without_known(task, config.seeds, train, test, labels, predictions, units),
    }
    return found, _examples(recipe, run, task, names, test, labels, predictions)


def _comparable(
    task: Task,
    config: FinetuneConfig,
    scores: Mapping[str, Mapping[str, Any]],
    where: str,
    progress: Callable[[str], None],
) -> str:
    """The metric that systems are compared by: what chose the checkpoint, or the task's own where that is not defined.

    Raises:
        UserError: if the test labels define neither.
    """
    chosen_by = config.metric_for_best_model
    for name in (chosen_by, task.primary_metric):
        if all(name in found for found in scores.values()):
            if name != chosen_by != "loss":
                progress(f"{where}: these texts do not define {chosen_by}; systems are compared by {name}")
            return name
    raise UserError(
        f"{where}: these texts do not define {task.primary_metric}, since they have no label, or all the same one; add "
        "texts with others"
    )


def _examples(
    recipe: Recipe,
    run: Path,
    task: Task,
    names: Sequence[str],
    test: Sequence[Record],
    labels: Ints,
    predictions: Mapping[str, Predictions],
) -> dict[str, Any]:
    """Some of the test texts with label and prediction, as the first seed's model reads them."""
    tokenizer = load_tokenizer(run / "finetune" / f"seed-{recipe.finetune.seeds[0]}" / "model")
    answers = task.answers(predictions["bert"], names, test)
    shown = [task.shown(answer, label, names, one) for answer, label, one in zip(answers, labels, test, strict=True)]
    return example_texts([tokenizer.clean(task.shown_text(one)) for one in test], shown)


def _without_known(
    task: Task,
    seeds: Sequence[int],
    train: Sequence[Record],
    test: Sequence[Record],
    labels: Ints,
    predictions: Mapping[str, Predictions],
    units: Units,
) -> dict[str, Any]:
    """The metrics on the test texts that do not stand in train, where there are both kinds, and the others' number."""
    new = np.array([not one for one in in_train(train, test)])
    without: dict[str, Any] = {"count_removed": int((~new).sum())}
    if new.any() and not new.all():
        kept = {name: values[new] for name, values in predictions.items()}
        without |= _scores(task, seeds, labels[new], kept, units.kept(new))
    return without


def _weights(recipe: Recipe, run: Path) -> dict[str, str]:
    """The SHA-256 of the weights of each evaluated model, by the path of its folder: whose results these are."""
    seeds = recipe.finetune.seeds if recipe.finetune.data else ()
    folders = [f"finetune/seed-{seed}/model" for seed in seeds]
    if recipe.finetune.encoder is None:
        folders.append("pretrain/model")
    return {folder: digests([run / folder / WEIGHTS])[0][1] for folder in folders}


def _overlap(recipe: Recipe, run: Path, splits: Mapping[str, LabelledSplit]) -> dict[str, Any]:
    """What the evaluated splits, all but the first, share with train and with what was pre-trained on."""
    train, test, *validation = (split.records for split in splits.values())
    evaluated = texts_of(list(splits.values())[1:])
    found = {"train": train_overlap(train, test), "pretraining": _pretraining_overlap(recipe, run, evaluated)}
    shared = group_overlap(train, validation[0]) if validation else {}
    return {**found, "validation": shared} if shared else found


def _pretraining_overlap(recipe: Recipe, run: Path, evaluated: frozenset[bytes]) -> dict[str, Any] | str:
    """What is known of the evaluated texts in pre-training: of this run's, and of the run that an encoder lies in."""
    encoder = recipe.finetune.encoder or recipe.pretrain.encoder
    homes = [run] if recipe.finetune.encoder is None else []
    if encoder is not None:
        homes.append(find_model(encoder, "encoder").resolve().parent.parent)
    found = []
    for home in homes:
        path = home / "prepare" / "data_report.json"
        # Of an encoder that continued another one, the report of its last corpus does not tell all.
        whole = home == run or not _continues(home / "pretrain" / "recipe.yaml")
        found.append(pretraining_overlap(read_json(path) if path.is_file() and whole else None, evaluated))
    known = [one for one in found if not isinstance(one, str)]
    if len(known) < len(found):
        return "unknown"
    return {key: sum(one[key] for one in known) for key in known[0]}


def _continues(recipe: Path) -> bool:
    """Whether the saved recipe of a pretrain stage began with an encoder."""
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    return bool(settings.get("pretrain", {}).get("encoder"))


def units_of(task: Task, test: Sequence[Record], predictions: Mapping[str, Predictions], labels: Ints) -> Units:
    """What intervals draw together: the data's groups; without them runs of neighbours, as long as their likeness.

    Args:
        task: scores single predictions.
        test: the records of the test split, in the order of the data.
        predictions: by system.
        labels: of the records.
    """
    groups = [record.group for record in test]
    if any(group is not None for group in groups):
        # A row without a group stands for itself.
        keys = [("row", str(row)) if group is None else ("group", str(group)) for row, group in enumerate(groups)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return Units(len(test), np.array([numbers[key] for key in keys], np.int64))
    found = [task.row_scores(values, labels) for values in predictions.values()]
    length = max([run_length(one) for one in found if one is not None], default=1)
    sorted_by_class = length > 1 and np.issubdtype(labels.dtype, np.integer)
    return Units(len(test), length=length, parts=parts_by_class(task.strata(labels)) if sorted_by_class else ())


def most_frequent(labels: Ints, names: Sequence[str]) -> str | None:
    """The class that most labels name; None where labels are not numbers of classes."""
    are_classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    return names[int(np.bincount(labels).argmax())] if names and are_classes else None


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content


def _warnings(
    task: Task, seeds: Sequence[int], labels: Ints, predictions: dict[str, Predictions], names: list[str], run: Path
) -> list[str]:
    """What is wrong with BERT, in sentences: a class predicted never or nearly always, a loss not below chance."""
    by_sentence: dict[str, list[str]] = {}
    for seed in seeds:
        done = _read(run / "finetune" / f"seed-{seed}" / "done.json")
        found = [f"{one}; {WHAT_TO_TRY}" for one in task.warnings(predictions[f"bert-seed-{seed}"], labels, names)]
        no_better = no_better_than_chance(task, done.get("validation_loss"), done.get("chance_loss"))
        found += [] if no_better is None else [no_better]
        for sentence in found:
            by_sentence.setdefault(sentence, []).append(str(seed))
    shown = {sentence: f" of seed {', '.join(own)}" if len(seeds) > 1 else "" for sentence, own in by_sentence.items()}
    return [f"BERT{of} {sentence}." for sentence, of in shown.items()]


def _all_predictions(
    recipe: Recipe, task: Task, test: list[Record], run: Path, engine: Engine, progress: Callable[[str], None]
) -> dict[str, Predictions]:
    """Predictions for the test split by system: BERT's by seed, its first seed's as bert, and the baselines'."""
    config = recipe.finetune
    predictions: dict[str, Predictions] = {}
    for seed in config.seeds:
        folder = run / "finetune" / f"seed-{seed}" / "model"
        sequences = task.encode(test, load_tokenizer(folder), config.max_length, config.truncation)
        for sentence in task.notices(sequences):
            progress(sentence)
        progress(f"predicting {len(sequences):,} test texts with BERT, seed {seed}")
        predictions[f"bert-seed-{seed}"] = predict_saved(folder, sequences, config, engine)
    predictions["bert"] = predictions[f"bert-seed-{config.seeds[0]}"]
    for path in sorted((run / "baselines").glob("*.npy")):
        predictions[path.stem] = np.load(path, allow_pickle=False)
    return predictions


def _scores(
    task: Task, seeds: Sequence[int], labels: Ints, predictions: dict[str, Predictions], units: Units
) -> dict[str, Any]:
    """Scores of each system; BERT's are the mean over its fine-tuning seeds, whose spread is in the intervals."""
    found = {
        name: scores(task, values, labels, units)
        for name, values in predictions.items()
        if "seed" not in name and name != "bert"
    }
    by_seed = {str(seed): scores(task, predictions[f"bert-seed-{seed}"], labels, units) for seed in seeds}
    bert = by_seed[str(seeds[0])]
    if len(seeds) > 1:
        bert = scores(task, [predictions[f"bert-seed-{seed}"] for seed in seeds], labels, units)
    # Metrics that all seeds have; one is missing where only one class is in the labels.
    keys = [key for key, value in bert.items() if isinstance(value, float) and not key.endswith(("_low", "_high"))]
    keys = [key for key in keys if all(key in seed for seed in by_seed.values())]
    spread = {key: mean_and_spread([seed[key] for seed in by_seed.values()]) for key in keys}
    return {"scores": {"bert": bert, **found}, "bert_seeds": by_seed, "spread": spread}


def collect_results(recipe: Recipe, run: Path, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put results.json together from the stages' results.

    Args:
        recipe: the whole recipe.
        run: the run folder.
        done: the stage.json of each finished stage, with its fingerprint and how long it took.
    """
    environments = {stage: read_json(run / stage / "environment.json") for stage in done}
    environment = environments["finetune" if "finetune" in done else "pretrain"]  # of the models that are evaluated
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
