"""Does a classifier read, or count words? Reviews that were rewritten so that the sentiment flips, and their originals.

    python benchmarks/counterfactual.py --imdb /path/to/imdb --counterfactual /path/to/imdb_counterfactual

The 488 pairs are those of Kaushik et al. 2020, "Learning the Difference that Makes a Difference with
Counterfactually-Augmented Data". Their originals stand in IMDB's train split, so that all systems are trained without
every copy of them, by the list of ids that comes with the pairs. BERT and the n-gram baselines are trained and
evaluated by an ordinary run of `recipes/imdb-counterfactual.yaml`; its saved predictions are divided here into
originals and rewrites. Intervals draw whole pairs. The pairs choose nothing: neither a setting nor a checkpoint. The
bundled encoder was pre-trained on the reviews of IMDB's train split without their labels, the originals among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from matplotlib.axes import Axes

import bertwright
from bertwright.errors import UserError
from bertwright.evaluate.comparison import SYSTEM_NAMES, saved_predictions
from bertwright.evaluate.plots import Theme, save_panel
from bertwright.evaluate.significance import interval
from bertwright.tasks.resampling import Units
from common import Json, described, read_lines, write, write_lines

ROOT = Path(__file__).resolve().parents[1]
NAME = "imdb-counterfactual"
LABELS = ("negative", "positive")
MEASURES = {"originals": "originals", "rewrites": "rewrites", "both": "both of a pair right"}
SAMPLES = 1000


def key_of(row: Mapping[str, Any]) -> str:
    """A review of the train split as the list of ids names it: train/pos/12_8."""
    return f"train/{'pos' if row['label'] else 'neg'}/{row['id']}_{row['rating']}"


def write_data(imdb: Path, counterfactual: Path, folder: Path, most: int | None) -> Json:
    """Write train.jsonl and test.jsonl, originals first; returns how many reviews were left out and kept.

    Raises:
        UserError: if the ids do not fit the reviews.
    """
    excluded = set((counterfactual / "imdb_ids_to_exclude.txt").read_text(encoding="utf-8").split())
    official = read_lines(imdb / "train.jsonl.xz")
    kept = [row for row in official if key_of(row) not in excluded]
    meant = sum(key.startswith("train/") for key in excluded)
    if len(official) - len(kept) != meant:
        raise UserError(f"{meant} ids of train are to be left out, and {len(official) - len(kept)} were found")
    lines = [{"text": row["text"], "label": LABELS[row["label"]], "pair": f"train-{n}"} for n, row in enumerate(kept)]
    if most is not None:
        lines = [lines[i] for i in np.linspace(0, len(lines) - 1, min(most, len(lines))).astype(int)]
    versions = [read_lines(counterfactual / f"test_{part}.jsonl.xz") for part in ("orig", "new")]
    versions = [sorted(rows, key=lambda row: row["pair"]) for rows in versions]
    if [row["pair"] for row in versions[0]] != [row["pair"] for row in versions[1]]:
        raise UserError(f"{counterfactual}: test_orig and test_new do not hold the same pairs")
    pairs = [{**row, "pair": f"pair-{row['pair']}"} for rows in versions for row in rows]
    for name, rows in (("train", lines), ("test", pairs)):
        write_lines(folder / f"{name}.jsonl", rows)
    return {"left_out": meant, "train": len(lines), "pairs": len(pairs) // 2}


def right_of(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Whether each pair's original, rewrite and both are classified right, (pairs,) each."""
    right = (probabilities.argmax(axis=1) == labels).reshape(2, -1)
    return {"originals": right[0], "rewrites": right[1], "both": right.all(axis=0)}


def measured(runs: list[dict[str, np.ndarray]], against: dict[str, np.ndarray] | None = None) -> Json:
    """The mean of each measure over runs with its interval over pairs; or its difference to that of another system."""
    pairs = len(runs[0]["both"])
    chunks = list(Units(pairs).resamples(SAMPLES, 0))
    found: Json = {}
    for name in MEASURES:
        values = [one[name].astype(float) - (0 if against is None else against[name]) for one in runs]
        means = np.array([one.mean() for one in values])
        resampled = np.stack([np.concatenate([chunk @ one for chunk in chunks]) / pairs for one in values], axis=1)
        bounds = (0.0, 1.0) if against is None else (-np.inf, np.inf)
        ends = interval(resampled, means, pairs, bounds) or (float(means.mean()),) * 2
        found[name] = {"mean": float(means.mean()), "low": ends[0], "high": ends[1]}
    return found


def draw(systems: Mapping[str, Json], folder: Path) -> None:
    """A row for each system: where it stands on originals, and where it falls to on rewrites."""
    ordered = sorted(systems, key=lambda name: systems[name]["rewrites"]["mean"])

    def paint(axes: Axes, theme: Theme) -> None:
        for position, name in enumerate(ordered):
            color = theme.cycle[1] if name == "bert" else theme.cycle[0]
            places = [systems[name][part]["mean"] for part in ("rewrites", "originals")]
            axes.plot(places, [position, position], color=color, linewidth=2, alpha=0.4)
            for part, marker, face in (("originals", "o", theme.background), ("rewrites", "o", color)):
                one = systems[name][part]
                axes.plot([one["mean"]], [position], marker, color=color, markerfacecolor=face, markersize=8)
                axes.annotate(
                    f"{one['mean']:.3f}",
                    (one["mean"], position),
                    xytext=(9 if part == "originals" else -9, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if part == "originals" else "right",
                    fontsize=9.5,
                )
            weight = "bold" if name == "bert" else "normal"
            axes.text(
                0,
                position + 0.3,
                SYSTEM_NAMES[name].removesuffix(" (this run)"),
                transform=axes.get_yaxis_transform(),
                weight=weight,
            )
        axes.set_yticks([])
        axes.set_ylim(-0.5, len(ordered) - 0.2)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        left, right = axes.get_xlim()
        axes.set_xlim(left - 0.12 * (right - left), right + 0.12 * (right - left))
        axes.set_xlabel("accuracy: filled on rewritten reviews, hollow on their originals")

    save_panel(folder, "counterfactual", (5.6, 0.9 + 0.6 * len(ordered)), paint)


def main(
    imdb: str,
    counterfactual: str,
    encoder: str = "bundled",
    train: int | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    work: str = "runs/counterfactual",
    out: str = "results/counterfactual/results.json",
) -> None:
    """Train BERT and the baselines without the originals, and evaluate them on originals and rewrites.

    Args:
        imdb: a folder with train.jsonl.xz: id, rating, label, text.
        counterfactual: a folder with test_orig.jsonl.xz, test_new.jsonl.xz and imdb_ids_to_exclude.txt.
        encoder: to fine-tune.
        train: the most reviews to train on, to try the benchmark out; the default is all.
        seeds: of fine-tuning.
        work: a folder to work in; the same command resumes.
        out: the JSON file; a relative path starts at the repository, and the figure goes to the same folder.
    """
    data = Path(work).resolve() / "data"
    counts = write_data(Path(imdb), Path(counterfactual), data, train)
    run = bertwright.run(
        ROOT / "recipes" / f"{NAME}.yaml",
        data={NAME: {"path": str(data)}},
        finetune={"encoder": encoder, "seeds": list(seeds)},
        out=str(Path(work) / "run"),
    )
    saved = saved_predictions(run.path / "evaluate" / "predictions")
    right = {name: right_of(values, saved["labels"]) for name, values in saved.items() if values.ndim == 2}
    bert = [right[f"bert-seed-{seed}"] for seed in seeds]
    baselines = {name: one for name, one in right.items() if not name.startswith("bert") and name != "most_frequent"}
    systems = {"bert": measured(bert), **{name: measured([one]) for name, one in baselines.items()}}
    best = max(baselines, key=lambda name: sum(systems[name][part]["mean"] for part in ("originals", "rewrites")))
    result = {
        "systems": systems,
        "bert_seeds": {
            str(seed): {k: float(v.mean()) for k, v in one.items()} for seed, one in zip(seeds, bert, strict=True)
        },
        "best_baseline": best,  # on originals and rewrites together
        "bert_is_higher_by": {name: measured(bert, one) for name, one in baselines.items()},
        "reviews": counts | {"trained_on": run.results["splits"]["train"]["used"]},
        "stage_seconds": run.results["stage_seconds"],
        "environment": described(),
    }
    write(result, out)
    draw(systems, (ROOT / out).parent)
    print(f"{'system':45}  " + "  ".join(f"{title:>22}" for title in MEASURES.values()))
    for name, one in systems.items():
        cells = [f"{one[part]['mean']:.3f} ({one[part]['low']:.3f}-{one[part]['high']:.3f})" for part in MEASURES]
        print(f"{SYSTEM_NAMES[name]:45}  " + "  ".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
