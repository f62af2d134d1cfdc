"""Which system finds the paragraph that answers a question: words, vectors, or both?

    python benchmarks/retrieval.py --tasks /path/to/tasks --encoders '{"MiniLM": "/path/to/folder"}'

The questions are those of SQuAD 1.1's dev part; each has one right answer among all distinct paragraphs of that part,
the one it was asked about. Systems are BM25, TF-IDF, an encoder of random weights, the bundled one, that one after
contrastive training on the paragraphs alone (`trained`, some half an hour on two cores: what a user can do with texts
to be searched), and those that are given; each encoder also as a hybrid with BM25 (the weighted mean of both), which is
what `bertwright search` does. Vectors come from the function that it calls, and so do words and fusion. No system sees
a question before it is asked. What is chosen, as the weight of the fusion, is chosen on the questions of SQuAD's train
part and its paragraphs (`--part train`). Intervals draw whole articles, since the questions of an article are alike; a
system is compared with BM25 on the same draws. STS-B is the rank correlation (Spearman) of the cosines of two sentences
and their scores. The rate of encoding is compared with that of sentence-transformers in turns, for each given encoder
that it can open.

results.json maps each system to its figures; details.json has intervals, rates and the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer

import bertwright
from bertwright.apps.bm25 import WordIndex
from bertwright.apps.ranking import best_first, fuse
from bertwright.apps.search_texts import text_vectors
from bertwright.apps.suite_runs import make_random_encoder
from bertwright.evaluate.plots import save_intervals
from bertwright.evaluate.retrieval import METRICS, Values, metrics, with_intervals
from bertwright.files import read_json
from bertwright.tasks.resampling import Units
from common import Json, described, markdown, read_lines, write, write_lines

SHOWN = ("ndcg_10", "recall_1", "recall_10")
"""The metrics of the table."""
ROUNDS = 3
ROOT = Path(__file__).resolve().parents[1]
TRAINING: Json = {
    "epochs": 80,
    "batch_size": 128,
    "max_length": 128,
    "micro_batch_tokens": 4096,
    "validation_ratio": 0.05,
    "optimizer": {"learning_rate": 3e-4, "warmup_ratio": 0.1},
}
"""Of the contrastive training."""
Rankings = list[NDArray[np.int64]]
Encode = Callable[[list[str]], NDArray[Any]]


def some(rows: list[Json], most: int | None) -> list[Json]:
    """Some rows, evenly over all of them."""
    return rows if most is None else [rows[n] for n in np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def questions_of(rows: Sequence[Json]) -> tuple[list[str], list[str], NDArray[Any], NDArray[Any]]:
    """Questions, distinct paragraphs, and the numbers of each question's paragraph and article, from SQuAD's rows."""
    paragraphs, right = unique(row["context"] for row in rows)
    _, articles = unique(row["title"] for row in rows)
    return [row["question"] for row in rows], paragraphs, right, articles


def unique(values: Iterable[str]) -> tuple[list[str], NDArray[Any]]:
    """Distinct values in their order, and the number of each value among them."""
    numbers: dict[str, int] = {}
    places = np.array([numbers.setdefault(value, len(numbers)) for value in values])
    return list(numbers), places


def by_words(questions: Sequence[str], paragraphs: Sequence[str]) -> tuple[NDArray[Any], Rankings]:
    """BM25: scores (questions, paragraphs), and rankings."""
    index = WordIndex.build(paragraphs)
    scores = np.stack([index.scores(question) for question in questions])
    return scores, [best_first(own)[: np.count_nonzero(own > 0)] for own in scores]


def by_scores(scores: Iterable[NDArray[Any]]) -> Rankings:
    """Rankings of all paragraphs by each question's scores, (questions, paragraphs)."""
    return [best_first(own) for own in scores]


def spearman(first: NDArray[Any], second: NDArray[Any], rows: Sequence[Json]) -> float:
    """The rank correlation of cosines and scores, for unit vectors of both sentences."""
    return float(spearmanr((first * second).sum(axis=1), [row["label"] for row in rows]).statistic)


def sentences(rows: Sequence[Json]) -> list[str]:
    """Both sentences of all pairs, the first ones first."""
    return [row[column] for column in ("text", "text_pair") for row in rows]


def correlated(encode: Encode, parts: dict[str, list[Json]]) -> dict[str, float]:
    """The rank correlation on each part of STS-B."""
    found = {}
    for name, rows in parts.items():
        vectors = encode(sentences(rows))
        found[name] = spearman(vectors[: len(rows)], vectors[len(rows) :], rows)
    return found


def encoder_of(folder: str) -> Encode:
    """What makes unit vectors with the model in a folder."""
    model = bertwright.load(folder)
    return lambda texts: text_vectors(model, texts)[0]


def trained_encoder(paragraphs: list[str], settings: Json, work: Path) -> tuple[str, float]:
    """Train the bundled encoder on unlabelled paragraphs; returns its folder, and the seconds.

    Args:
        paragraphs: to draw crops of.
        settings: of fine-tuning, as `TRAINING`.
        work: a folder to work in; what is done is not done again.
    """
    texts = work / "paragraphs" / "train.jsonl"
    write_lines(texts, ({"text": one} for one in paragraphs))
    run = bertwright.run(
        ROOT / "recipes" / "embeddings.yaml",
        stages=["finetune"],
        out=str(work / "trained"),
        data={"texts": {"path": str(texts.parent), "test_ratio": 0.01}},  # a run has a test split
        finetune=settings,
        system={"compile": "auto"},
    )
    folder = run.path / "finetune"
    return str(folder / "seed-0" / "model"), float(read_json(folder / "stage.json")["seconds"])


def rates(folder: str, texts: list[str]) -> Json:
    """Texts a second of ours and of sentence-transformers, one after the other in each round, after one for warmth."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(folder, device="cpu")
    systems: dict[str, Encode] = {
        "ours": encoder_of(folder),
        "sentence_transformers": lambda part: theirs.encode(part, normalize_embeddings=True),
    }
    cosines = np.einsum("th,th->t", *(encode(texts) for encode in systems.values()))
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(ROUNDS):
        for name, encode in systems.items():
            start = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "texts": len(texts),
        "texts_per_second": {name: len(texts) / statistics.median(own) for name, own in seconds.items()},
        "ratios": ratios,
        "least_cosine": float(cosines.min()),
    }


@dataclass(frozen=True)
class Texts:
    """What all systems are evaluated on.

    Args:
        questions: of SQuAD.
        paragraphs: all distinct ones.
        right: the number of each question's paragraph, int64 (questions,).
        units: which questions are drawn together: those of an article.
        pairs: rows of STS-B to evaluate, by part.
        other_pairs: rows of STS-B's train part.
    """

    questions: list[str]
    paragraphs: list[str]
    right: NDArray[Any]
    units: Units
    pairs: dict[str, list[Json]]
    other_pairs: list[Json]


def read_data(tasks: Path, part: str, most: int | None) -> Texts:
    """Questions and paragraphs of a part of SQuAD, and STS-B; at most so many rows of each."""
    squad = read_lines(tasks / "squad" / f"{part}.jsonl.xz")
    asked, paragraphs, right, articles = questions_of(some(squad, most))
    pairs = {name: some(read_lines(tasks / "stsb" / f"{name}.jsonl.xz"), most) for name in ("train", "dev", "test")}
    return Texts(asked, paragraphs, right, Units(len(asked), articles), pairs, pairs.pop("train"))


@dataclass
class Found:
    """What is measured of each system, by its name.

    Args:
        rankings: paragraphs of each question, the best first.
        correlations: on STS-B, by part.
        seconds: to encode and rank, of encoders.
        rates: of encoding, from `rates`.
    """

    rankings: dict[str, Rankings] = field(default_factory=dict)
    correlations: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    rates: dict[str, Json] = field(default_factory=dict)

    def add_encoder(self, name: str, folder: str, data: Texts, words: NDArray[Any]) -> None:
        """Rank by an encoder alone, and as a hybrid with words, BM25 (questions, paragraphs)."""
        encode = encoder_of(folder)
        start = time.perf_counter()
        cosines = encode(data.questions) @ encode(data.paragraphs).T
        self.rankings[name] = by_scores(cosines)
        self.seconds[name] = time.perf_counter() - start
        print(f"{name}: questions and paragraphs encoded and ranked in {self.seconds[name]:.0f} seconds", flush=True)
        self.rankings[f"{name}+bm25"] = by_scores(map(fuse, words, cosines))
        self.correlations[name] = correlated(encode, data.pairs)
        if (Path(folder) / "modules.json").exists():
            self.rates[name] = rates(folder, data.paragraphs)

    def systems(self, values: dict[str, Values]) -> dict[str, Json]:
        """The figures of each system, from `metrics`."""
        return {
            name: {
                "stsb_spearman": self.correlations.get(name, {}).get("test"),
                **{metric: float(one.mean()) for metric, one in own.items()},
                "encode_ratio": self.rates.get(name, {}).get("ratio"),
            }
            for name, own in values.items()
        }


def main(
    tasks: str,
    encoders: dict[str, str] | None = None,
    most: int | None = None,
    part: str = "dev",
    training: Json | None = None,
    work: str = "runs/retrieval",
    out: str = "results/embeddings/results.json",
) -> None:
    """Evaluate all systems on SQuAD's paragraphs and on STS-B.

    Args:
        tasks: a folder with squad/PART.jsonl.xz, and stsb/ with train, dev and test.
        encoders: model folders by the name that they get in the table.
        most: questions, with their paragraphs, and pairs of STS-B, to try the benchmark out; the default is all.
        part: of SQuAD, whose questions are asked.
        training: settings of fine-tuning in place of those of `TRAINING`.
        work: a folder for the encoders of random weights and of the training.
        out: the JSON file; a relative path starts at the repository.
    """
    data = read_data(Path(tasks), part, most)
    folder, settings = Path(work).resolve() / part, TRAINING | (training or {})
    make_random_encoder(folder / "random")
    trained, train_seconds = trained_encoder(data.paragraphs, settings, folder)
    words, ranked = by_words(data.questions, data.paragraphs)
    tfidf = TfidfVectorizer().fit(data.paragraphs)
    of_pairs = TfidfVectorizer().fit(sentences(data.other_pairs))
    found = Found()
    found.rankings["bm25"] = ranked
    found.rankings["tfidf"] = by_scores(
        (tfidf.transform(data.questions) @ tfidf.transform(data.paragraphs).T).toarray()
    )
    found.correlations["tfidf"] = correlated(lambda texts: of_pairs.transform(texts).toarray(), data.pairs)
    own_encoders = {"random": str(folder / "random"), "bundled": "bundled", "trained": trained}
    for name, place in {**own_encoders, **(encoders or {})}.items():
        found.add_encoder(name, place, data, words)
    values = {name: metrics(own, data.right[:, None]) for name, own in found.rankings.items()}
    above = {name: with_intervals(own, data.units, values["bm25"]) for name, own in values.items() if name != "bm25"}
    systems = found.systems(values)
    details = {
        "intervals": {name: with_intervals(own, data.units) for name, own in values.items()},
        "above_bm25": above,
        "stsb_spearman": found.correlations,
        "encode_rates": found.rates,
        "encode_seconds": found.seconds,
        "train_seconds": train_seconds,
        "training": settings,
        "encoders": encoders,
        "questions": len(data.questions),
        "paragraphs": len(data.paragraphs),
        "articles": data.units.count,
        "environment": described(),
    }
    write(systems, out)
    write(details, str(Path(out).with_name("details.json")))
    plot(details["intervals"], (ROOT / out).parent)
    print(table(systems, above))


NAMES = {
    "bm25": "BM25",
    "tfidf": "TF-IDF",
    "random": "random weights",
    "bundled": "the bundled encoder",
    "trained": "the bundled encoder, trained on the paragraphs",
}
"""The systems in the figure that are not named by the user; a hybrid's name ends with +bm25."""


def plot(intervals: dict[str, Json], folder: Path) -> None:
    """Draw nDCG@10 of all systems with its interval, as retrieval.png."""
    rows = []
    for system, own in intervals.items():
        encoder, hybrid, _ = system.partition("+bm25")
        name = NAMES.get(encoder, encoder)
        if hybrid:
            name += f"{',' if ', ' in name else ''} and BM25"
        rows.append((name, *(own["ndcg_10"][key] for key in ("mean", "low", "high"))))
    save_intervals(folder, "retrieval", rows, x_label="nDCG@10, questions of SQuAD")


def table(systems: dict[str, Json], above: dict[str, Json]) -> str:
    """The systems as Markdown, the best on nDCG@10 first."""
    lines = []
    for name, own in sorted(systems.items(), key=lambda item: -item[1]["ndcg_10"]):
        one = above.get(name, {}).get("ndcg_10")
        said = "" if one is None else f"{one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
        correlation = "" if own["stsb_spearman"] is None else f"{own['stsb_spearman']:.3f}"
        lines.append([name, *(f"{own[key]:.3f}" for key in SHOWN), said, correlation])
    return markdown(["system", *(METRICS[key] for key in SHOWN), "nDCG@10 above BM25", "STS-B"], lines)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
