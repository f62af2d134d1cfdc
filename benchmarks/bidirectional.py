"""What reading both ways is worth: one network, the same tokens, four objectives (paper, section 5.1).

    python benchmarks/bidirectional.py --books '/path/to/books-*.jsonl.xz' --imdb /path/to/imdb

A row is `recipes/bidirectional/base.yaml` with one of the files beside it. Each is pre-trained and fine-tuned once per
seed, then measured: its loss on held-out text, the probes of `probing.py`, which pairs of passages it takes for
neighbours, where its heads look, and IMDB on the validation part of train: the test split is not read. To run one by
hand:

    bertwright pretrain recipes/bidirectional/base.yaml --recipe recipes/bidirectional/left-to-right.yaml ...

What is done is kept: the same command goes on after a stop, and measures everything anew. A row of the defaults takes
15 to 25 minutes of pre-training on two cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

import probing
from bertwright.cli import load_recipe, main
from bertwright.recipe import Recipe
from bertwright.evaluate.significance import classification_scores, mean_and_spread
from bertwright.files import write_json, write_text
from bertwright.models.heads import BertForPreTraining
from bertwright.models.checkpoints import load_classifier, load_pretraining_model, load_tokenizer
from bertwright.tasks.classify import (
    encode_texts,
    label_names,
    label_numbers,
    predict_probabilities,
    split_validation,
)
from bertwright.text.corpus import read_labelled
from bertwright.text.store import PreparedCorpus
from bertwright.text.wordpiece import Tokenizer
from bidirectional_figures import save_attention, save_uncovered
from common import Json, described, last_evaluation, write

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "bidirectional"
ROWS = {
    "both": "both ways, next sentences",
    "without-next-sentence": "both ways",
    "left-to-right": "left to right",
    "without-pretraining": "no pre-training",
}
SIDES = ("left", "right", "both", "agreement")
UNCOVERED = ("right-01-a", "right-03-a", "right-17-b", "right-18-b", "right-22-b", "both-01-b")
"""Probes that figures show: their words on the right are uncovered one at a time."""

PLACES = 600
"""Places of held-out text around which pairs of passages are made."""


def train(row: str, seed: int, books: str, imdb: str, work: Path) -> tuple[Path, Recipe]:
    """Pre-train and fine-tune a row; returns its run folder and recipe. The corpus is prepared once, for all rows."""
    folder = work / f"{row}-{seed}"
    base = str(RECIPES / "base.yaml")
    options = ["--recipe", str(RECIPES / f"{row}.yaml"), "--data.books", books, "--data.imdb", imdb]
    options += ["--seed", str(seed), "--finetune.seeds", f"[{seed}]"]
    corpus = work / "corpus"
    stages = [("prepare", corpus), ("pretrain", folder), ("finetune", folder)]
    for stage, out in stages:
        if out == folder and not (folder / "prepare").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "prepare").symlink_to((corpus / "prepare").resolve())
        if main([stage, base, *options, "--out", str(out)]) != 0:
            raise SystemExit(1)
    return folder, load_recipe(base, *options)


def measure(folder: Path, recipe: Recipe) -> Json:
    """All figures of a trained row, one seed."""
    model = load_pretraining_model(folder / "pretrain" / "model").eval()
    tokenizer = load_tokenizer(folder / "pretrain" / "model")
    heldout = PreparedCorpus(folder / "prepare" / "heldout.arrow", tokenizer.fingerprint)
    last = last_evaluation(folder / "pretrain")
    length = recipe.pretrain.phases[-1].sequence_length
    measured: Json = {
        "heldout": last["heldout"],
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "log_odds": ask(model, tokenizer),
        "attention": probing.attention_profile(model, tokenizer, heldout, 64, length).tolist(),
        "imdb": judge(folder, recipe),
    }
    if recipe.pretrain.next_sentence and recipe.pretrain.max_steps != 1:
        places = probing.draw_pairs(heldout, PLACES, (length - 3) // 2)
        measured["next_probability"] = {
            kind: probing.next_probability(model, tokenizer, [place[kind] for place in places]).tolist()
            for kind in probing.KINDS
        }
    return measured


def ask(model: BertForPreTraining, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """The log-odds of all probes whose words are in the vocabulary, by their ids."""
    probes = [probe for probe in probing.read_probes() if probing.fits(probe, tokenizer)]
    return {probe.id: probing.log_odds(model, tokenizer, probe) for probe in probes}


def answered(odds: Sequence[dict[str, list[float]]]) -> list[probing.Probe]:
    """The probes that were asked."""
    return [probe for probe in probing.read_probes() if probe.id in odds[0]]


def probed(odds: Sequence[dict[str, list[float]]]) -> Json:
    """The share of probes that each seed's log-odds get right, by what is seen and where the decisive word stands."""
    probes = answered(odds)
    # What sees the whole sentence: the mask of a model that reads both ways, the likelihood of one that reads from the
    # left. What sees the left side alone is the latter at the gap; of the former it is a gap with masks after it.
    steps = {"whole sentence": -1, "left side alone": 0}
    return {
        name: {side: probing.accuracy([p for p in probes if p.side == side], odds, step) for side in SIDES}
        for name, step in steps.items()
    }


def judge(folder: Path, recipe: Recipe) -> Json:
    """Scores of the fine-tuned classifier on the validation part of train."""
    config = recipe.finetune
    model_folder = folder / "finetune" / f"seed-{config.seeds[0]}" / "model"
    classifier = load_classifier(model_folder)
    examples = read_labelled(recipe.source(config.data), "train")
    labels = label_numbers(examples, label_names(examples), f"data.{config.data}")
    _, chosen = split_validation(labels, config.validation_ratio)
    texts = [examples[i].text for i in chosen]
    ids = encode_texts(texts, load_tokenizer(model_folder), config.max_length, config.truncation)
    said = predict_probabilities(classifier, ids, config.micro_batch_tokens, config.max_length)
    return classification_scores(labels[chosen], said)


def summary(runs: Sequence[Json]) -> Json:
    """A row's figures over its seeds."""
    odds = [run["log_odds"] for run in runs]
    probes = answered(odds)
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
        found["judged_next"] = {
            kind: probing.interval(
                np.array([run["next_probability"][kind] for run in runs]).T > 0.5  # (places, seeds)
            )
            for kind in probing.KINDS
        }
    return found


def share(found: Json) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * found['mean']:.1f} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


def spread(found: Json, digits: int) -> str:
    """A mean over seeds with its deviation."""
    return f"{found['mean']:.{digits}f} ± {found['std']:.{digits}f}"


def table(rows: dict[str, Json]) -> str:
    """All tables, as Markdown."""
    lines = ["Mean and deviation over seeds. IMDB: the validation part of train.", ""]
    lines += [
        "| row | masked tokens: loss | next tokens: loss | pairs right | IMDB accuracy | IMDB F1 | tokens, millions |"
    ]
    lines += ["|---" * 7 + "|"]
    for row, found in rows.items():
        heldout, trained = found["heldout"], row != "without-pretraining"
        shown = [
            spread(heldout[key], 3) if key in heldout and trained else ""
            for key in ("mlm_loss", "clm_loss", "nsp_accuracy")
        ]
        scores = [spread(found["imdb"][key], 4) for key in ("accuracy", "f1")]
        tokens = f"{np.mean(found['tokens']) / 1e6:.1f}"
        lines.append(f"| {' | '.join([ROWS[row], *shown, *scores, tokens])} |")

    lines += ["", "Probes: the right word wins, per cent, with 95 % intervals over sets of twins. Guessing is 50.", ""]
    lines += [f"| row | what it sees | {' | '.join(SIDES)} |", "|---" * (2 + len(SIDES)) + "|"]
    for row, found in rows.items():
        for sees, sides in found["probes"].items():
            lines.append(f"| {ROWS[row]} | {sees} | {' | '.join(share(sides[side]) for side in SIDES)} |")

    lines += ["", "Agreement by distance, in words from the subject to its verb, per cent, whole sentence.", ""]
    lines += [f"| row | {' | '.join(map(str, range(1, 9)))} |", "|---" * 9 + "|"]
    for row, found in rows.items():
        shares = (f"{100 * found['agreement_by_distance'][str(d)]['mean']:.0f}" for d in range(1, 9))
        lines.append(f"| {ROWS[row]} | {' | '.join(shares)} |")

    lines += ["", "Topic or order? Pairs that are taken for neighbours, per cent, by what their second passage is.", ""]
    lines += [f"| row | {' | '.join(probing.KINDS)} |", "|---" * (1 + len(probing.KINDS)) + "|"]
    for row, found in rows.items():
        if "judged_next" in found:
            lines.append(f"| {ROWS[row]} | {' | '.join(share(found['judged_next'][k]) for k in probing.KINDS)} |")
    return "\n".join(lines) + "\n"


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
        longer: the folder of a longer run, such as runs/imdb-mini, whose encoder is asked the same probes: what do they
            say of more training?
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
    tokenizer = load_tokenizer(Path(work) / f"both-{seeds[0]}" / "pretrain" / "model")
    known = {probe.id: probe for probe in probing.read_probes()}
    for name in (name for name in UNCOVERED if name in runs["both"][0]["log_odds"]):
        lines = {ROWS[row]: np.mean([run["log_odds"][name] for run in runs[row]], axis=0) for row in list(ROWS)[1:3]}
        save_uncovered(target / "figures", known[name], tokenizer, lines)
    for row in list(ROWS)[:3]:
        save_attention(target / "figures", row, ROWS[row], np.array(runs[row][0]["attention"]))
    rows = {row: summary(found) for row, found in runs.items()}
    write_text(target / "table.md", table(rows))
    print(table(rows))
    found: Json = {"rows": rows, "seeds": seeds, "probes_left_out": len(known) - len(runs["both"][0]["log_odds"])}
    if longer:
        pretrained = Path(longer) / "pretrain"
        odds = ask(load_pretraining_model(pretrained / "model").eval(), load_tokenizer(pretrained / "model"))
        tokens = last_evaluation(pretrained)["tokens"]
        found["longer"] = {"run": Path(longer).name, "tokens": tokens, "probes": probed([odds])}
        lines = [f"{side} {share(shares)}" for side, shares in found["longer"]["probes"]["whole sentence"].items()]
        print(f"{longer}, {tokens / 1e6:.1f} million tokens, whole sentence: {', '.join(lines)}")
    write({**found, "environment": described()}, f"{out}/results.json")


if __name__ == "__main__":
    auto_cli(bidirectional, as_positional=False)
