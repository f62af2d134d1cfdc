"""The tables of results/suite/README.md, from results.json and differences.json there.

    python benchmarks/suite_tables.py

prints both: the encoders on each task, and how each differs from the one before it on the same test rows.
"""

from __future__ import annotations

from pathlib import Path

from bertwright.evaluate.comparison import metric_name
from bertwright.files import read_json
from common import Json, markdown

FOLDER = Path(__file__).resolve().parents[1] / "results" / "suite"
ENCODERS = {"random": "random weights", "bundled": "bundled encoder", "all-MiniLM-L6-v2": "all-MiniLM-L6-v2"}
TASKS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "conll2003": "CoNLL-2003",
    "wnut17": "WNUT-17",
    "squad": "SQuAD",
    "squad2": "SQuAD 2.0",
    "commonsenseqa": "CommonsenseQA",
    "copa": "COPA",
    "goemotions": "GoEmotions",
}


def tables(results: Json, pairs: list[Json]) -> tuple[str, str]:
    """Both tables, in per cent, of the encoders and tasks that were measured.

    Args:
        results: encoder -> task -> what was measured, as in results.json.
        pairs: the differences between two encoders, as in differences.json.
    """
    encoders = [name for name in ENCODERS if name in results]
    tasks = [task for task in TASKS if any(task in results[name] for name in encoders)]
    header = ["task", "metric", "best baseline", *(ENCODERS[name] for name in encoders)]
    scores = []
    for task in tasks:
        found = [results[name].get(task) for name in encoders]
        one = next(cell for cell in found if cell is not None)
        baseline = "–" if one["baseline"] is None else f"{100 * one['baseline']:.1f}"
        cells = ["–" if cell is None else f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}" for cell in found]
        scores.append([TASKS[task], metric_name(one["metric"]), baseline, *cells])
    compared = list(zip(encoders[1:], encoders, strict=False))
    apart = [[TASKS[task], *(difference(pairs, task, *two) for two in compared)] for task in tasks]
    names = [f"{name} minus {other}" for name, other in compared]
    return markdown(header, scores), markdown(["task", *names], apart)


def difference(pairs: list[Json], task: str, name: str, other: str) -> str:
    """How far an encoder is above another on a task, with its interval; a dash where they were not compared."""
    for one in pairs:
        if one["task"] == task and {one["first"], one["second"]} == {name, other}:
            sign = 1 if one["first"] == name else -1
            ends = sorted(sign * one[end] for end in ("low", "high") if end in one)
            interval = f" ({' to '.join(map(signed, ends))})" if ends else ""
            return signed(sign * one["difference"]) + interval
    return "–"


def signed(value: float) -> str:
    """A fraction in per cent with its sign; zero has a plus."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


if __name__ == "__main__":
    print(*tables(read_json(FOLDER / "results.json"), read_json(FOLDER / "differences.json")), sep="\n\n")
