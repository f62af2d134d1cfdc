"""The effect of bidirectional context: one network, the same tokens, four objectives (paper, section 5.1).

    python benchmarks/bidirectional.py --books '/path/to/books-*.jsonl.xz' --imdb /path/to/imdb

A row is `recipes/bidirectional/base.yaml` with another file of that folder. Each is pre-trained and fine-tuned once per
seed, then measured: its loss on held-out text, the probes of `probing.py`, its next-sentence predictions for four kinds
of pairs, its attention weights by relative position, and IMDB on the validation set: the test split is not used. To run
one by hand:

    bertwright pretrain recipes/bidirectional/base.yaml --recipe recipes/bidirectional/causal.yaml ...

What is done is kept: the same command resumes after an interruption, and measures everything anew. A row of the
defaults takes 15 to 25 minutes of pre-training on two cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

import bertwright
import probing
from bertwright.evaluate.significance import mean_and_spread, scores
from bertwright.files import write_json, write_text
from bertwright.models.checkpoints import load_pretraining_model, load_tokenizer
from bertwright.models.heads import PretrainingModel
from bertwright.recipe import Recipe
from bertwright.tasks.prediction import predict
from bertwright.tasks.registry import load_task_model
from bertwright.tasks.sequence import Classification
from bertwright.tasks.validation_set import cut_validation
from bertwright.text.records import read_records
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bidirectional_figures import save_attention, save_revealed
from common import Json, described, last_evaluation, markdown, write

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "bidirectional"
ROWS = {
    "masked": "MLM and NSP",
    "without-next-sentence": "MLM",
    "causal": "causal LM",
    "without-pretraining": "no pre-training",
}
EARLIER = {"both": "masked", "left-to-right": "causal"}
"""Rows that a result of version 0.1 has under another name."""

SIDES = ("left", "right", "both", "agreement")
UNCOVERED = ("right-01-a", "right-03-a", "right-17-b", "right-18-b", "right-22-b", "both-01-b")
"""Probes that figures show: their right context is revealed one token at a time."""

PLACES = 600
"""Places of held-out text around which pairs of passages are made."""


def train(row: str, seed: int, books: str, imdb: str, work: Path) -> tuple[Path, Recipe]:
    """Pre-train and fine-tune a row; returns its run folder and recipe. The corpus is prepared once, for all rows."""
    folder = work / f"{row}-{seed}"
    settings = {"data": {"books": books, "imdb": imdb}, "seed": seed, "finetune": {"seeds": [seed]}}
    recipe = bertwright.load_recipe([RECIPES / "base.yaml", RECIPES / f"{row}.yaml"], **settings)
    corpus = work / "corpus"
    stages = [("prepare", corpus), ("pretrain", folder), ("finetune", folder)]
    for stage, out in stages:
        if out == folder and not (folder / "prepare").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "prepare").symlink_to((corpus / "prepare").resolve())
        bertwright.run(recipe, stages=[stage], out=str(out))
    return folder, recipe


def measure(folder: Path, recipe: Recipe) -> Json:
    """All measurements of a trained row, one seed."""
    model = load_pretraining_model(folder / "pretrain" / "model").eval()
    tokenizer = load_tokenizer(folder / "pretrain" / "model")
    heldout = PreparedCorpus(folder / "prepare" / "heldout.arrow", tokenizer.fingerprint)
    last = last_evaluation(folder / "pretrain")
    length = recipe.pretrain.phases[-1].sequence_length
    measured: Json = {
        "heldout": last["heldout"],
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "log_odds": all_log_odds(model, tokenizer),
        "attention": probing.attention_profile(model, tokenizer, heldout, 64, length).tolist(),
        "imdb": validation_scores(folder, recipe),
    }
    if recipe.pretrain.next_sentence and recipe.pretrain.max_steps != 1:
        places = probing.draw_pairs(heldout, PLACES, (length - 3) // 2)
        measured["next_probability"] = {
            kind: probing.next_probability(model, tokenizer, [place[kind] for place in places]).tolist()
            for kind in probing.KINDS
        }
    return measured


def all_log_odds(model: PretrainingModel, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """The log-odds of all probes whose words are in the vocabulary, by their ids."""
    probes = [probe for probe in probing.read_probes() if probing.fits(probe, tokenizer)]
    return {probe.id: probing.log_odds(model, tokenizer, probe) for probe in probes}


def measured_probes(odds: Sequence[dict[str, list[float]]]) -> list[probing.Probe]:
    """The probes that have log-odds."""
    return [probe for probe in probing.read_probes() if probe.id in odds[0]]


def probed(odds: Sequence[dict[str, list[float]]]) -> Json:
    """The accuracy of each seed's log-odds on the probes, by visible context and by the side of the decisive word."""
    probes = measured_probes(odds)
    # Whole sentence: a masked model's prediction for [MASK], or a causal model's likelihood of the sentence. Left side
    # alone: a causal model's next-token prediction, or a masked model's prediction with a right context of [MASK].
    steps = {"whole sentence": -1, "left side alone": 0}
    return {
        name: {side: probing.accuracy([p for p in probes if p.side == side], odds, step) for side in SIDES}
        for name, step in steps.items()
    }


def validation_scores(folder: Path, recipe: Recipe) -> Json:
    """Scores of the fine-tuned classifier on the validation set."""
    task = Classification()
    config = recipe.finetune
    model_folder = folder / "finetune" / f"seed-{config.seeds[0]}" / "model"
    where = f"data.{config.data}"
    records = read_records(recipe.source(config.data), "train", task.columns)
    labels = task.labels(records, task.label_names(records, config.label_names, where), records, where)
    _, chosen = cut_validation(records, labels, config.validation_ratio, where, print)
    texts = [records[i] for i in chosen]
    sequences = task.encode(texts, load_tokenizer(model_folder), config.max_length, config.truncation)
    model = load_task_model(model_folder)
    return scores(task, predict(task, model, sequences, config.micro_batch_tokens, config.max_length), labels[chosen])


def summary(runs: Sequence[Json]) -> Json:
    """A row's metrics over its seeds."""
    odds = [run["log_odds"] for run in runs]
    probes = measured_probes(odds)
    found: Json = {
        "heldout": {key: mean_and_spread([run["heldout"][key] for run in runs]) for key in sorted(runs[0]["heldout"])},
        "tokens": [run["tokens"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "probes": probed(odds),
        "agreement_by_distance": {
            str(distance): probing.accuracy([p for p in probes if p.distance == distance], odds, -1)
            for distance in range(1, 9)
        },
        "imdb": {key: mean_and_spread([run["imdb"][key] for run in runs]) for key in ("accuracy", "f1")},
    }
    if "next_probability" in runs[0]:
        found["predicted_next"] = {
            kind: probing.interval(
                np.array([run["next_probability"][kind] for run in runs]).T > 0.5  # (places, seeds)
            )
            for kind in probing.KINDS
        }
    return found


def per_cent(found: Json) -> str:
    """A ratio with its interval, in per cent."""
    return f"{100 * found['mean']:.1f} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


def spread(found: Json, digits: int) -> str:
    """A mean over seeds with its deviation."""
    return f"{found['mean']:.{digits}f} ± {found['std']:.{digits}f}"


def table(rows: dict[str, Json]) -> str:
    """All tables, as Markdown."""
    rows = {EARLIER.get(row, row): found for row, found in rows.items()}
    header = ("row", "MLM loss", "causal LM loss", "NSP accuracy", "IMDB accuracy", "IMDB F1", "tokens, millions")
    measures = []
    for row, found in rows.items():
        heldout = {key.replace("ltr_", "clm_"): value for key, value in found["heldout"].items()}  # as in version 0.1
        trained = row != "without-pretraining"
        shown = [
            spread(heldout[key], 3) if key in heldout and trained else ""
            for key in ("mlm_loss", "clm_loss", "nsp_accuracy")
        ]
        scores = [spread(found["imdb"][key], 4) for key in ("accuracy", "f1")]
        tokens = f"{np.mean(found['tokens']) / 1e6:.1f}"
        measures.append([ROWS[row], *shown, *scores, tokens])
    probes = [
        [ROWS[row], context, *(per_cent(sides[side]) for side in SIDES)]
        for row, found in rows.items()
        for context, sides in found["probes"].items()
    ]
    distances = [str(distance) for distance in range(1, 9)]
    agreement = [
        [ROWS[row], *(f"{100 * found['agreement_by_distance'][distance]['mean']:.0f}" for distance in distances)]
        for row, found in rows.items()
    ]
    # In version 0.1 it had another name.
    predicted = {row: found.get("predicted_next", found.get("judged_next")) for row, found in rows.items()}
    pairs = [
        [ROWS[row], *(per_cent(found[kind]) for kind in probing.KINDS)] for row, found in predicted.items() if found
    ]
    parts = (
        "Mean and standard deviation over seeds. IMDB: the validation set.",
        markdown(header, measures),
        "Accuracy on the probes, per cent, with 95 % intervals over sets of twins. Chance is 50.",
        markdown(["row", "visible context", *SIDES], probes),
        "Accuracy on agreement by distance, in words from the subject to its verb, per cent, whole sentence.",
        markdown(["row", *distances], agreement),
        "Topic or order: pairs predicted to be next sentences, per cent, by their second passage.",
        markdown(["row", *probing.KINDS], pairs),
    )
    return "\n\n".join(parts) + "\n"


def bidirectional(
    books: str,
    imdb: str,
    seeds: tuple[int, ...] = (0, 1),
    longer: str | None = None,
    work: str = "runs/bidirectional",
    out: str = "results/bidirectional",
) -> None:
    """Train and measure all rows, print the tables and draw the figures.

    Args:
        books: general text.
        imdb: labelled and unlabelled reviews.
        seeds: of pre-training and fine-tuning.
        longer: the folder of a longer run, such as runs/imdb-mini, whose encoder is evaluated on the same probes, for
            the effect of more training.
        work: folder of the run folders.
        out: folder for results.json, table.md, raw/ and the figures.
    """
    target = ROOT / out
    runs: dict[str, list[Json]] = {row: [] for row in ROWS}
    for seed in seeds:  # a whole study of one seed first
        for row in ROWS:
            folder, recipe = train(row, seed, books, imdb, Path(work))
            runs[row].append(measure(folder, recipe))
            write_json(target / "raw" / f"{folder.name}.json", runs[row][-1])
            for stage in ("pretrain", f"finetune/seed-{seed}"):
                name = f"{folder.name}-{stage.partition('/')[0]}.jsonl"
                shutil.copyfile(folder / stage / "metrics.jsonl", target / "raw" / name)
            shutil.copyfile(folder / "recipe.yaml", target / "raw" / f"{folder.name}.yaml")
    tokenizer = load_tokenizer(Path(work) / f"masked-{seeds[0]}" / "pretrain" / "model")
    known = {probe.id: probe for probe in probing.read_probes()}
    for name in (name for name in UNCOVERED if name in runs["masked"][0]["log_odds"]):
        lines = {ROWS[row]: np.mean([run["log_odds"][name] for run in runs[row]], axis=0) for row in list(ROWS)[1:3]}
        save_revealed(target / "figures", known[name], tokenizer, lines)
    for row in list(ROWS)[:3]:
        save_attention(target / "figures", row, ROWS[row], np.array(runs[row][0]["attention"]))
    rows = {row: summary(found) for row, found in runs.items()}
    write_text(target / "table.md", table(rows))
    print(table(rows))
    found: Json = {"rows": rows, "seeds": seeds, "probes_left_out": len(known) - len(runs["masked"][0]["log_odds"])}
    if longer:
        pretrained = Path(longer) / "pretrain"
        odds = all_log_odds(load_pretraining_model(pretrained / "model").eval(), load_tokenizer(pretrained / "model"))
        tokens = last_evaluation(pretrained)["tokens"]
        found["longer"] = {"run": Path(longer).name, "tokens": tokens, "probes": probed([odds])}
        lines = [
            f"{side} {per_cent(accuracy)}" for side, accuracy in found["longer"]["probes"]["whole sentence"].items()
        ]
        print(f"{longer}, {tokens / 1e6:.1f} million tokens, whole sentence: {', '.join(lines)}")
    write({**found, "environment": described()}, f"{out}/results.json")


if __name__ == "__main__":
    auto_cli(bidirectional, as_positional=False)
