"""What continued pre-training on unlabelled texts is worth, for few labels and for many: IMDB, 100 to 25,000 labels.

    python benchmarks/continued.py --imdb /path/to/imdb --encoder /path/to/all-MiniLM-L6-v2 --minutes 60

An encoder that others have pre-trained is fine-tuned, as it came (`encoder`), and after its pre-training was continued
on all reviews of train without their labels for some minutes (`continued`: `recipes/imdb-continued.yaml`; each of
`--rows`, variants of that recipe in `recipes/continued`, is a further system; `causal-first` predicts next tokens from
the left alone for the first third of the minutes). Others get the same labels: the `bundled` encoder as in
benchmarks/few_labels.py, the linear baselines, and logistic regression on the frozen encoder's sentence vectors
(`frozen`, by sentence-transformers; its penalty is chosen by cross-validation).

Numbers of labels are drawn as in few_labels.py, as many of each class, and budgets are adapted in the same way. All are
evaluated on one part of the official test split; the recipe's guard keeps test reviews out of pre-training. `seconds`
are of training and prediction, the mean over draws; those of `continued` hold the pre-training. Results are written
after each system of each draw, to `draws.json` as they come, with the loss on held-out text that each pre-training came
to, and to `results.json` as a table, which README.md beside them shows, and what they have is not done again: the same
command resumes after an interruption, also within the pre-training.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from sklearn.linear_model import LogisticRegressionCV

import bertwright
from bertwright.evaluate.comparison import SYSTEM_NAMES
from bertwright.evaluate.plots import Series, save_curves
from bertwright.evaluate.significance import mean_and_spread
from bertwright.files import digests, read_json, write_array, write_json
from bertwright.models.checkpoints import find_model
from bertwright.recipe import FinetuneConfig, Recipe, Source, fingerprint, to_dict
from bertwright.tasks.baselines import SYSTEMS
from bertwright.text.records import Record, read_records
from common import Json, decided, described, last_evaluation, markdown, resumed, same, write_table
from few_labels import TASK, bert_classifier, budget, draw, probabilities

ROOT = Path(__file__).resolve().parents[1]
NAMES = SYSTEM_NAMES | {
    "encoder": "encoder, fine-tuned",
    "continued": "encoder, pre-training continued, fine-tuned",
    "bundled": "bundled encoder, fine-tuned",
    "frozen": "frozen encoder, logistic regression",
}
CAUSAL_FIRST, CAUSAL_RATIO = "continued, causal-first", 1 / 3
"""A variant that no recipe can say, since it changes its encoder's direction midway, and the part of its minutes before
that."""

DRAWN = ("continued", "encoder", "frozen", "nb_logistic_regression", "bundled")
"""The systems of the figure, as many as there are colours; of the linear baselines the best."""


@dataclass(frozen=True)
class Reviews:
    """The labelled reviews that all systems share.

    Args:
        train: all labelled reviews of train.
        labels: of these, int64 (reviews,).
        test: the reviews that are evaluated on.
        truth: of these, int64 (reviews,).
    """

    train: list[Record]
    labels: np.ndarray
    test: list[Record]
    truth: np.ndarray


class Frozen:
    """Logistic regression on a frozen encoder's sentence vectors, which are computed once.

    Args:
        encoder: its folder.
        reviews: to compute vectors of.
        work: keeps the vectors.
    """

    def __init__(self, encoder: Path, reviews: Reviews, work: Path) -> None:
        self.encoder, self.reviews, self.work = encoder, reviews, work

    @cached_property
    def vectors(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Unit vectors of train and test, float32 (reviews, H), and the seconds for one review."""
        parts, timed = {"train": self.reviews.train, "test": self.reviews.test}, self.work / "seconds.npy"
        missing = [part for part in parts if not (self.work / f"{part}.npy").exists()]
        if missing:
            import sentence_transformers

            model = sentence_transformers.SentenceTransformer(str(self.encoder))
        for part in missing:
            texts = [record.text.replace("<br />", " ") for record in parts[part]]
            start = time.perf_counter()
            vectors = model.encode(texts, batch_size=32, normalize_embeddings=True)
            write_array(timed, np.array((time.perf_counter() - start) / len(texts)))  # either part tells it
            write_array(self.work / f"{part}.npy", vectors)
        train, test = (np.load(self.work / f"{part}.npy") for part in parts)
        return train, test, float(np.load(timed))

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """Probabilities of the test reviews, (reviews, classes), and seconds, those of the vectors included."""
        train, test, seconds = self.vectors
        start = time.perf_counter()
        folds = min(5, int(np.bincount(self.reviews.labels[rows]).min()))
        model = LogisticRegressionCV(
            Cs=10, cv=folds, max_iter=1_000, scoring="neg_log_loss", l1_ratios=(0.0,), use_legacy_attributes=False
        )
        model.fit(train[rows], self.reviews.labels[rows])
        found = model.predict_proba(test)
        return found, time.perf_counter() - start + seconds * (len(rows) + len(test))


def continue_encoder(recipe: Recipe, encoder: str, minutes: float, imdb: str, out: Path) -> tuple[Path, float]:
    """Continue the encoder's pre-training on the reviews; returns the model's folder and the seconds it took."""
    run = bertwright.run(
        recipe,
        stages=["prepare", "pretrain"],
        out=str(out),
        data={"imdb": imdb},
        pretrain={"encoder": encoder, "max_minutes": minutes},
    )
    seconds = sum(read_json(run.path / stage / "stage.json")["seconds"] for stage in ("prepare", "pretrain"))
    return run.path / "pretrain" / "model", seconds


def copy_of(encoder: Path, causal: bool, out: Path) -> str:
    """A copy of an encoder's folder that is continued as a causal model, or as one that reads both sides."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(encoder, out)
    write_json(out / "config.json", {**read_json(out / "config.json"), "is_decoder": causal})
    return str(out)


def continue_causal_first(recipe: Recipe, encoder: Path, minutes: float, imdb: str, out: Path) -> tuple[Path, float]:
    """As `continue_encoder`, predicting next tokens at first (Gisserot-Boukhlef et al. 2025)."""
    causal = copy_of(encoder, True, out / "causal-start")
    left, first = continue_encoder(recipe, causal, minutes * CAUSAL_RATIO, imdb, out / "causal")
    both = copy_of(left, False, out / "start")
    model, second = continue_encoder(recipe, both, minutes * (1 - CAUSAL_RATIO), imdb, out / "masked")
    return model, first + second


def fine_tuned(
    recipe: Recipe, config: FinetuneConfig, encoder: Path, reviews: Reviews, rows: np.ndarray, folder: Path
) -> tuple[np.ndarray, float]:
    """Probabilities of the test reviews, (reviews, classes), and seconds, those before an interruption included."""
    model = bert_classifier(recipe, config, encoder, [reviews.train[i] for i in rows], folder)
    start = time.perf_counter()
    found = probabilities(model, config, reviews.test)
    return found, read_json(model.parent / "done.json")["seconds"] + time.perf_counter() - start


def linear(name: str, reviews: Reviews, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities of the test reviews by a linear baseline, (reviews, classes), and seconds."""
    start = time.perf_counter()
    pipeline = SYSTEMS[name]().fit([reviews.train[i].text for i in rows], reviews.labels[rows])
    return pipeline.predict_proba([review.text for review in reviews.test]), time.perf_counter() - start


def table_of(draws: Json) -> Json:
    """Labels -> system -> mean F1, its deviation over draws (None of one alone), mean seconds, and the processors."""
    return {
        size: {
            system: {
                "f1": (f1 := mean_and_spread([one["f1"] for one in done]))["mean"],
                "sd": f1["std"] if len(done) > 1 else None,
                "seconds": float(np.mean([one["seconds"] for one in done])),
                "draws": len(done),
                "processor": "; ".join(dict.fromkeys(one["processor"] for one in done)),
            }
            for system, done in systems.items()
        }
        for size, systems in sorted(draws.items(), key=lambda item: int(item[0]))
    }


def shown(table: Json, pretraining: Json) -> str:
    """F1, mean and standard deviation over the draws, a row for each system and a column for each number of labels.

    Args:
        table: from `table_of`.
        pretraining: by system what its continued pre-training came to; where several did, their losses on held-out text
            are the last column.
    """
    rows, columns = [], [f"{int(size):,}" for size in table]
    losses = {system: f"{came_to['heldout']['mlm_loss']:.2f}" for system, came_to in pretraining.items()}
    if len(losses) > 1:
        columns.append("loss on held-out text")
    for system in dict.fromkeys(name for systems in table.values() for name in systems):
        cells = [systems.get(system, {"draws": 0}) for systems in table.values()]
        words = [("", "{f1:.3f}", "{f1:.3f} ± {sd:.3f}")[min(one["draws"], 2)].format(**one) for one in cells]
        rows.append([NAMES.get(system, system), *words, losses.get(system, "")][: len(columns) + 1])
    return markdown(["system", *columns], rows)


def publish(draws: Json, pretraining: Json, folder: Path) -> Json:
    """Write results.json and the table of README.md; returns the former."""
    table = table_of(draws)
    write_json(folder / "results.json", table)
    write_table(folder / "README.md", shown(table, pretraining))
    return table


def plot(table: Json, folder: Path) -> None:
    """The learning curves of `DRAWN`, as far as they were measured."""
    series = []
    for color, system in enumerate(DRAWN):
        points = [(float(size), found[system]["f1"]) for size, found in table.items() if system in found]
        if points:
            series.append(Series(*np.array(points).T, NAMES[system], "points", color))
    save_curves(
        folder,
        "continued",
        series,
        x_label="labelled reviews",
        y_label="F1 on test reviews, mean over draws",
        x_log=True,
    )


def systems_settings(recipes: dict[str, Recipe], bundled: Recipe) -> dict[str, dict[str, Any]]:
    """The settings of single systems beside those of the benchmark, by the system's name: sections and plain values.

    Args:
        recipes: of the systems whose pre-training is continued, by their names.
        bundled: whose fine-tuning the bundled encoder gets.
    """
    weights = digests([find_model("bundled", "encoder") / "model.safetensors"])[0][1]
    found: dict[str, dict[str, Any]] = {"bundled": {"weights": weights, "finetune": bundled.finetune}}
    for system, recipe in recipes.items():
        found[system] = {"tokenizer": recipe.tokenizer, "prepare": recipe.prepare, "pretrain": recipe.pretrain}
    return found | {CAUSAL_FIRST: {**found["continued"], "causal_ratio": CAUSAL_RATIO}}


def place(system: str, recorded: Json) -> str:
    """The name of a system's folders: that of a variant follows its settings.

    Args:
        system: its name.
        recorded: the settings of single systems, as draws.json has them, by name.
    """
    own = f"-{fingerprint(recorded[system])}" if ", " in system and system in recorded else ""
    return system.replace(", ", "-") + own


def read_reviews(imdb: str, names: tuple[str, ...] | None, test_texts: int, train_texts: int | None) -> Reviews:
    """All labelled reviews of train, and a part of test, drawn once."""
    train, test = (read_records(Source(path=imdb), split, TASK.columns) for split in ("train", "test"))
    if train_texts is not None:
        train = [train[i] for i in np.linspace(0, len(train) - 1, min(train_texts, len(train))).astype(int)]
    classes = TASK.label_names(train, names, imdb)
    test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:test_texts]]
    return Reviews(train, TASK.labels(train, classes, train, imdb), test, TASK.labels(test, classes, train, imdb))


def main(
    imdb: str,
    encoder: str,
    minutes: float = 60,
    rows: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (100, 500, 2_500, 25_000),
    draws: int = 3,
    systems: Sequence[str] = ("encoder", "continued", "bundled", *SYSTEMS, "frozen"),
    test_texts: int = 6_000,
    train_texts: int | None = None,
    epochs: float | None = None,
    work: str = "runs/continued",
    out: str = "results/continued",
) -> None:
    """Measure and draw the learning curves.

    Args:
        imdb: labelled reviews with a train and a test split, and unlabelled ones.
        encoder: the folder of an encoder that others have pre-trained.
        minutes: of continued pre-training.
        rows: variants of the recipe in recipes/continued, by name, to measure as further systems; and causal-first.
        sizes: numbers of labels.
        draws: how often each number is drawn; also the number of fine-tuning seeds.
        systems: to measure, besides rows.
        test_texts: how many reviews of the test split all are evaluated on.
        train_texts: the most labelled reviews to use, to try the benchmark out; the default is all.
        epochs: of fine-tuning on all labels, in place of the recipe's; fewer labels get more.
        work: a folder to work in; the same command resumes.
        out: a folder for draws.json, results.json and the figure, whose README.md receives the table; a relative path
            starts at the repository.
    """
    base = ROOT / "recipes" / "imdb-continued.yaml"
    variants = {f"continued, {row}": ROOT / "recipes" / "continued" / f"{row}.yaml" for row in rows}
    recipes = {"continued": bertwright.load_recipe(base)} | {
        name: bertwright.load_recipe([base, path]) for name, path in variants.items() if name != CAUSAL_FIRST
    }
    bundled = bertwright.load_recipe(ROOT / "recipes" / "imdb-mini.yaml")
    own = recipes["continued"].finetune
    own = own if epochs is None else replace(own, epochs=epochs)
    reviews = read_reviews(imdb, own.label_names, test_texts, train_texts)
    start_from = find_model(encoder, "encoder")
    wanted = [*systems, *variants]
    sections = {"pretrain": recipes["continued"].pretrain, "finetune": own}
    settings = {
        "weights": digests([start_from / "model.safetensors"])[0][1],
        "minutes": minutes,
        **{name: decided(to_dict(section), section) for name, section in sections.items()},
        "train_texts": len(reviews.train),
        "test_texts": len(reviews.test),
    }
    target = ROOT / out
    earlier = resumed(target / "draws.json", settings, sections)
    # Named for the settings as they were recorded; draws from before those of single systems were are by today's.
    settings, found = earlier["settings"], earlier.get("draws", {})
    folder = Path(work).resolve() / fingerprint(settings)
    own_settings: Json = earlier.get("systems", {})
    pretraining: Json = earlier.get("pretraining", {})
    for system, parts in systems_settings(recipes, bundled).items():
        today = {name: decided(to_dict(part), part) if is_dataclass(part) else part for name, part in parts.items()}
        if system in wanted:
            own_settings[system] = same(own_settings.get(system, today), today, parts, target / "draws.json", system)
    frozen = Frozen(start_from, reviews, folder / "vectors")
    environment = described()

    def measured(system: str, size: int, number: int, chosen: np.ndarray) -> tuple[np.ndarray, float]:
        if system == "frozen":
            return frozen.predict(chosen)
        if system in SYSTEMS:
            return linear(system, reviews, chosen)
        recipe, start, config, before = recipes["continued"], start_from, budget(own, size), 0.0
        if system == "bundled":
            recipe, start = bundled, find_model("bundled", "encoder")
            config = budget(bundled.finetune, size)
        run = folder / f"pretrained-{place(system, own_settings)}"
        if system == CAUSAL_FIRST:
            start, before = continue_causal_first(recipe, start_from, minutes, imdb, run)
        elif system in recipes:
            start, before = continue_encoder(recipes[system], encoder, minutes, imdb, run)
        if system in recipes or system == CAUSAL_FIRST:
            pretraining[system] = last_evaluation(start.parent)
        tuned = folder / f"{place(system, own_settings)}-{size}-{number}"
        values, seconds = fine_tuned(recipe, replace(config, seeds=(number,)), start, reviews, chosen, tuned)
        return values, seconds + before

    for size, number, system in product(sizes, range(draws), wanted):
        done = found.setdefault(str(size), {}).setdefault(system, [])
        if len(done) > number:
            continue
        values, seconds = measured(system, size, number, draw(reviews.train, reviews.labels, size, number))
        f1, commit = TASK.metrics(values, reviews.truth)["f1"], environment["commit"]
        done.append({"f1": f1, "seconds": seconds, "commit": commit, "processor": environment["machine"]})
        written = {"settings": settings, "systems": own_settings, "pretraining": pretraining, "draws": found}
        write_json(target / "draws.json", {**written, "environment": environment})
        publish(found, pretraining, target)
        print(f"{size} labels, draw {number}, {system}: {done[-1]}", flush=True)
    table = publish(found, pretraining, target)
    print(shown(table, pretraining))
    plot(table, target)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
