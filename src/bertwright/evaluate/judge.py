"""The evaluate stage: every system's verdict on the official test split, read once, and examples to look at."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bertwright.config import Recipe
from bertwright.evaluate.metrics import classification_scores, mean_and_spread
from bertwright.files import read_json, write_array, write_json
from bertwright.model.heads import BertForPreTraining
from bertwright.model.interop import load_pretraining_model
from bertwright.objectives.batches import IS_NEXT
from bertwright.tasks.classify import encode_texts, judged_by, label_names, label_numbers
from bertwright.tasks.pretrain import PretrainTask
from bertwright.text.corpus import LabelledText, read_labelled
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bertwright.train.engine import Engine

_SHOWN = 6
"""Examples of each kind that the report shows."""

Probabilities = npt.NDArray[np.float32]


def evaluate(recipe: Recipe, run: Path, folder: Path, engine: Engine, progress: Callable[[str], None]) -> None:
    """Judge the test split with BERT and the baselines; write scores.json, examples.json and predictions/.

    Args:
        recipe: the whole recipe.
        run: the run folder, with finished prepare, pretrain, finetune and baselines stages.
        folder: receives the results.
        engine: the machine.
        progress: told in a sentence what is being done.
    """
    source = recipe.source(recipe.finetune.data)
    training = read_labelled(source, "train")
    test = read_labelled(source, "test")
    names = label_names(training)
    labels = label_numbers(test, names, f"data.{recipe.finetune.data}")
    predictions: dict[str, Probabilities] = {}
    for seed in recipe.finetune.seeds:
        model_folder = run / "finetune" / f"seed-{seed}" / "model"
        tokenizer = Tokenizer.load(model_folder)
        config = recipe.finetune
        ids = encode_texts([text.text for text in test], tokenizer, config.max_length, config.truncation)
        progress(f"judging {len(ids):,} test texts with BERT, seed {seed}")
        predictions[f"bert-seed-{seed}"] = judged_by(model_folder, ids, config, engine)
    predictions["bert"] = predictions[f"bert-seed-{recipe.finetune.seeds[0]}"]
    for path in sorted((run / "baselines").glob("*.npy")):
        predictions[path.stem] = np.load(path, allow_pickle=False)

    write_array(folder / "predictions" / "labels.npy", labels)
    for name, probabilities in predictions.items():
        write_array(folder / "predictions" / f"{name}.npy", probabilities)
    progress("computing scores and their intervals")
    known = {text.text for text in training}
    new = np.array([text.text not in known for text in test])
    write_json(
        folder / "scores.json",
        {
            "task": recipe.finetune.data,
            "label_names": names,
            **_scores(recipe, labels, predictions),
            "without_train_duplicates": {
                "count_removed": int((~new).sum()),
                **(
                    _scores(recipe, labels[new], {name: p[new] for name, p in predictions.items()}) if new.any() else {}
                ),
            },
            "heldout": _heldout_figures(recipe, run, engine) if recipe.finetune.encoder is None else {},
        },
    )
    examples = _judged_texts(test, labels, predictions["bert"])
    if recipe.finetune.encoder is None and not recipe.model.is_decoder:
        progress("filling masks and judging pairs")
        examples |= _pretraining_examples(recipe, run, engine)
    write_json(folder / "examples.json", examples)


def _scores(recipe: Recipe, labels: npt.NDArray[np.int64], predictions: dict[str, Probabilities]) -> dict[str, Any]:
    """Scores of each system; those of BERT are the mean over its fine-tuning seeds, intervals included."""
    scores = {name: classification_scores(labels, values) for name, values in predictions.items() if "seed" not in name}
    seeds = {str(s): classification_scores(labels, predictions[f"bert-seed-{s}"]) for s in recipe.finetune.seeds}
    for key, value in scores["bert"].items():
        if isinstance(value, float):
            scores["bert"][key] = float(np.mean([seed[key] for seed in seeds.values()]))
    # roc_auc is missing where only one class is judged.
    keys = [key for key in ("accuracy", "f1", "roc_auc") if key in scores["bert"]]
    spread = {key: mean_and_spread([seed[key] for seed in seeds.values()]) for key in keys}
    return {"scores": scores, "bert_seeds": seeds, "spread": spread}


def _heldout_figures(recipe: Recipe, run: Path, engine: Engine) -> dict[str, float]:
    """Both objectives on held-out text, at the sequence length of the last phase."""
    model = load_pretraining_model(run / "pretrain" / "model").to(engine.device)
    tokenizer = Tokenizer.load(run / "prepare" / "tokenizer")
    corpora = [
        PreparedCorpus(run / "prepare" / f"{part}.arrow", tokenizer.fingerprint) for part in ("train", "heldout")
    ]
    task = PretrainTask(recipe, model, tokenizer, corpora[0], corpora[1])
    task.objective.eval()
    with torch.inference_mode(), engine.accelerator.autocast():
        return task.evaluate(task.objective, engine, len(recipe.pretrain.phases) - 1)


def _judged_texts(
    test: list[LabelledText], labels: npt.NDArray[np.int64], probabilities: Probabilities
) -> dict[str, Any]:
    """Texts drawn at random, and the most confident mistakes."""
    certainty = probabilities.max(1)
    wrong = probabilities.argmax(1) != labels
    mistakes = np.argsort(np.where(wrong, -certainty, np.inf), kind="stable")[: min(_SHOWN, int(wrong.sum()))]
    judged = np.random.default_rng(0).choice(len(test), min(_SHOWN, len(test)), replace=False)

    def described(index: int) -> dict[str, Any]:
        text = {"text": re.sub(r"\s*<br />\s*", " ", test[index].text), "label": int(labels[index])}
        if probabilities.shape[1] == 2:
            return {**text, "probability": float(probabilities[index, 1])}
        return {
            **text,
            "prediction": int(probabilities[index].argmax()),
            "probability": float(certainty[index]),
        }

    return {"judged": [described(int(i)) for i in judged], "mistakes": [described(int(i)) for i in mistakes]}


def _pretraining_examples(recipe: Recipe, run: Path, engine: Engine) -> dict[str, Any]:
    """Filled masks, and judged pairs if the model has learnt from pairs, from held-out text."""
    model = load_pretraining_model(run / "pretrain" / "model").to(engine.device).eval()
    tokenizer = Tokenizer.load(run / "prepare" / "tokenizer")
    heldout = PreparedCorpus(run / "prepare" / "heldout.arrow", tokenizer.fingerprint)
    with torch.inference_mode():
        return {
            "filled_masks": _filled_masks(model, tokenizer, heldout),
            "next_sentence": _judged_pairs(model, tokenizer, heldout) if recipe.pretrain.next_sentence else [],
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


def _filled_masks(model: BertForPreTraining, tokenizer: Tokenizer, heldout: PreparedCorpus) -> list[dict[str, Any]]:
    """Held-out sentences with one whole word hidden, and what the model puts there."""
    device = next(model.parameters()).device
    rng = np.random.default_rng(11)
    examples = []
    for start, length, _ in _sentences(heldout, 12, min(40, model.bert.config.max_position_embeddings - 1)):
        ids = heldout.spans(np.array([start]), np.array([length]))[0].astype(np.int64)
        continues = np.append(tokenizer.is_continuation[ids], False)
        words = [
            i
            for i in range(len(ids))
            if not continues[i] and not continues[i + 1] and tokenizer.tokens[ids[i]].isalpha()
        ]
        if not words:
            continue
        hidden = int(rng.choice(words))
        masked = ids.copy()
        masked[hidden] = tokenizer.mask_id
        row = torch.from_numpy(np.concatenate([[tokenizer.cls_id], masked, [tokenizer.sep_id]]))[None].to(device)
        logits, _ = model(row, torch.zeros_like(row), None, torch.tensor([hidden + 1], device=device))
        best = logits[0].float().softmax(-1).topk(5)
        guesses = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        examples.append(
            {
                "text": tokenizer.decode(masked.tolist()),
                "guesses": [{"token": tokenizer.tokens[i], "probability": p} for i, p in guesses],
                "answer": tokenizer.tokens[ids[hidden]],
            }
        )
    return examples


def _judged_pairs(model: BertForPreTraining, tokenizer: Tokenizer, heldout: PreparedCorpus) -> list[dict[str, Any]]:
    """Held-out sentences with their successor, and with the successor of another."""
    device = next(model.parameters()).device
    positions = model.bert.config.max_position_embeddings
    chosen = _sentences(heldout, 8, min(40, positions // 2))
    starts = heldout.sentence_starts
    follow = [int(i) + 1 for _, _, i in chosen]
    examples = []
    for number, (start, length, _) in enumerate(chosen):
        is_next = number % 2 == 0
        other = follow[number] if is_next else follow[(number + 1) % len(follow)]
        lengths = np.array([length, heldout.sentence_lengths[other]])
        a, b = heldout.spans(np.array([start, starts[other]]), lengths)
        b = b[: min(80, positions - len(a) - 3)]
        row = np.concatenate([[tokenizer.cls_id], a, [tokenizer.sep_id], b, [tokenizer.sep_id]]).astype(np.int64)
        segment = np.repeat([0, 1], [len(a) + 2, len(b) + 1])
        _, logits = model(
            torch.from_numpy(row)[None].to(device),
            torch.from_numpy(segment)[None].to(device),
            None,
            torch.zeros(1, dtype=torch.long, device=device),
        )
        examples.append(
            {
                "a": tokenizer.decode(a.tolist()),
                "b": tokenizer.decode(b.tolist()),
                "is_next": is_next,
                "probability_next": float(logits.float().softmax(-1)[0, IS_NEXT]),
            }
        )
    return examples


def collect_results(recipe: Recipe, run: Path, stage_seconds: dict[str, float]) -> dict[str, Any]:
    """Put results.json together from the stages' figures."""
    environment = read_json(run / "environment.json")
    return {
        "recipe": recipe.name,
        "commit": environment["commit"],
        "seed": recipe.seed,
        "machine": environment["machine"],
        "seconds": sum(stage_seconds.values()),
        "stage_seconds": stage_seconds,
        **read_json(run / "evaluate" / "scores.json"),
    }
