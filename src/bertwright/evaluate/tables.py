"""The tables of a report: scores of all systems, metrics on held-out text, and the data that was pre-trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertwright.evaluate.comparison import (
    column_name,
    comparison,
    metric_name,
    primary_metric,
    saved_predictions,
    system_name,
)

_TERMINAL_ORDER = ("accuracy", "f1", "macro_f1", "precision", "recall", "roc_auc")
_PAGE_ALONE = ("matthews",)
"""Metrics for which a terminal is too narrow."""


def metric_keys(results: Mapping[str, Any]) -> list[str]:
    """The metrics that systems have, in the order of the page's columns: the primary one first."""
    found = [
        key
        for scores in results.get("scores", {}).values()
        for key, value in scores.items()
        if isinstance(value, float) and not key.endswith(("_low", "_high"))
    ]
    return _ordered(
        dict.fromkeys(found), (primary_metric(results), "macro_f1", "accuracy", "roc_auc", "precision", "recall")
    )


def _ordered(keys: Iterable[str], order: Sequence[str]) -> list[str]:
    """Keys in a given order, then those that it does not name in their own."""
    return sorted(keys, key=lambda key: order.index(key) if key in order else len(order))


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per system with its scores, and one per published figure, the best by the primary metric first.

    Systems without it, which have other texts than those that it was chosen on, keep their order.

    Args:
        results: the content of results.json, or a part with scores.
    """
    key = primary_metric(results)
    rows = [
        {**scores, "system": system, "name": system_name(system, results)}
        for system, scores in results.get("scores", {}).items()
    ]
    if rows:
        rows += [
            {"system": "published", "name": f"{name} (published figure)", key: value}
            for name, value in results.get("published", {}).items()
        ]
    return sorted(rows, key=lambda row: -row.get(key, -math.inf))


def class_rows(results: Mapping[str, Any], system: str = "bert") -> list[dict[str, Any]]:
    """One row per class of a confusion matrix, or per type: label, precision, recall, F1, support and predicted count.

    A ratio with denominator zero is absent.
    """
    scores = results.get("scores", {}).get(system, {})
    matrix = scores.get("confusion") or []
    names = results.get("label_names") or [str(index) for index in range(len(matrix))]
    counts = [
        (name, matrix[index][index], sum(matrix[index]), sum(row[index] for row in matrix))
        for index, name in enumerate(names if matrix else [])
    ]
    counts += [(kind, one["right"], one["true"], one["predicted"]) for kind, one in scores.get("by_type", {}).items()]
    rows = []
    for name, hits, support, predicted in counts:
        parts = {"precision": (hits, predicted), "recall": (hits, support), "f1": (2 * hits, support + predicted)}
        ratios = {key: part / whole for key, (part, whole) in parts.items() if whole}
        rows.append({"label": name, **ratios, "support": support, "predicted": predicted})
    return rows


def results_table(results: Mapping[str, Any], run_folder: Path | None = None, color: bool = False) -> str:
    """The scores of all systems as plain text for a terminal, the best first, with 95 % intervals if there are any.

    Args:
        results: the content of results.json.
        run_folder: adds the comparison, which needs the predictions saved there; without them a blunter test could
            contradict the page.
        color: whether warnings are red, by the codes of terminals.
    """
    if not results.get("scores"):
        return _heldout_table(results)
    primary = primary_metric(results)
    shown = [key for key in metric_keys(results) if key == primary or key not in _PAGE_ALONE]
    keys = _ordered(shown or [primary], _TERMINAL_ORDER)
    after = keys.index(primary) + 1
    header = [column_name(key, results) for key in keys]
    rows = score_rows(results)
    of_interval = ["95 % interval"] if has_intervals(rows, primary) else []
    lines = [("system", *header[:after], *of_interval, *header[after:])]
    for row in rows:
        low, high = _score(row, f"{primary}_low"), _score(row, f"{primary}_high")
        cells, interval = [_score(row, key) for key in keys], f"{low}-{high}" if low and high else ""
        lines.append((row["name"], *cells[:after], *([interval] if of_interval else []), *cells[after:]))
    text = _aligned(lines)
    if spread := seeds_sentence(results):
        text += ["", spread]
    if run_folder is not None:
        text += ["", comparison(results, saved_predictions(run_folder / "evaluate" / "predictions"))["text"]]
    for system, why in (results.get("left_out") or {}).items():
        text.append(f"Left out: {system_name(system, results)}, for {why}.")
    for warning in results.get("warnings") or []:
        text.append(f"\033[1;31mWarning: {warning}\033[0m" if color else f"Warning: {warning}")
    return "\n".join(line.rstrip() for line in text)


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """A header and rows as lines of text, whose first column is words and whose others are figures."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return [
        "  ".join(
            [line[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]


def _heldout_table(results: Mapping[str, Any]) -> str:
    """A run without labels for a terminal: its encoder on held-out text."""
    rows = heldout_rows(results)
    if not rows:
        return "No text was held out, so there is nothing to evaluate the encoder on: raise prepare.heldout_ratio."
    if "heldout_before" in results:
        lines = [("on held-out text", "before", "after"), *((name, *cells) for name, cells in rows)]
    else:
        lines = [("on held-out text", ""), *((name, cells[1]) for name, cells in rows)]
    return "\n".join(line.rstrip() for line in _aligned(lines))


def heldout_rows(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Metrics on held-out text, before and after pre-training; before is "-" where that had no head or random weights.

    Of several corpora, where an encoder's pre-training was continued, each has a row for its loss on tokens, after
    those of all together.

    Args:
        results: the content of results.json.

    Returns:
        Name, and the two cells.
    """
    names = {"mlm": "masked tokens", "clm": "next tokens", "nsp": "next sentences"}
    after, before = results.get("heldout") or {}, results.get("heldout_before") or {}
    rows = []
    for key in after:
        head, _, measure = key.partition("_")
        name = "bits per character" if measure == "bits_per_character" else f"{measure} on {names[head]}"
        rows.append((name, _before_and_after(key, before, after)))
    for corpus, both in (results.get("heldout_corpora") or {}).items():
        key = next((key for key in both["after"] if key in ("mlm_loss", "clm_loss")), None)
        if key is not None:
            name = f"loss on {names[key.partition('_')[0]]}, {corpus} alone"
            rows.append((name, _before_and_after(key, both["before"], both["after"])))
    return rows


def _before_and_after(key: str, before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    form = "{:.1%}" if key.endswith("accuracy") else "{:.3f}"
    shown = [one.get(key) for one in (before, after)]
    return ["-" if value is None else form.format(value).replace("%", " %") for value in shown]


def number_of_seeds(results: Mapping[str, Any]) -> int:
    """How many fine-tuning seeds BERT's figures are the means of; 1 in results of versions that had no others."""
    spread = (results.get("spread") or {}).get(primary_metric(results)) or {}
    return len(results.get("bert_seeds") or {}) or int(spread.get("n", 1))


def seeds_sentence(results: Mapping[str, Any]) -> str | None:
    """Mean and spread of BERT's primary metric over several fine-tuning seeds, in one sentence; None of a lone one."""
    key, seeds = primary_metric(results), number_of_seeds(results)
    if seeds < 2:
        return None
    spread = (results.get("spread") or {}).get(key)
    if not spread:  # results of earlier versions lack it where there is no interval
        return f"BERT's figures are the means over {seeds} fine-tuning seeds."
    return (
        f"BERT over {spread['n']} fine-tuning seeds: {metric_name(key, results)} {spread['mean']:.4f}, standard "
        f"deviation {spread['std']:.4f}."
    )


def has_intervals(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether any system has an interval of a metric: a test set of one group has none."""
    return any(row.get(f"{key}_low") is not None for row in rows)


def _score(row: Mapping[str, Any], key: str) -> str:
    return "" if row.get(key) is None else f"{row[key]:.4f}"


def data_tables(report: dict[str, Any]) -> dict[str, Any]:
    """The data report as one table: a row per count, a column per corpus and one for all of them."""
    if not report:
        return {}
    columns = dict(report.get("sources", {}))
    if len(columns) != 1 and report.get("total"):
        columns["all"] = report["total"]
    keys = list(dict.fromkeys(
        key for values in columns.values() for key, value in values.items() if isinstance(value, int | float)
    ))  # fmt: skip
    rows = []
    for key in keys:
        is_ratio = key.endswith("_ratio")
        cells = [values.get(key) for values in columns.values()]
        shown = ["" if cell is None else f"{100 * cell:.3f} %" if is_ratio else plain(cell) for cell in cells]
        rows.append((readable(key), shown))
    return {
        "columns": list(columns),
        "rows": rows,
        "how": {name: values["how"] for name, values in columns.items() if values.get("how")},
        "left_out": {name: values["left_out"] for name, values in columns.items() if values.get("left_out")},
        "changed": {name: values["changed"] for name, values in columns.items() if values.get("changed")},
        "parts": {part: report[part] for part in ("train", "heldout") if report.get(part)},
        "warnings": report.get("warnings", []),
    }


def labelled_tables(results: Mapping[str, Any]) -> dict[str, Any]:
    """What each split of the labelled data holds, a row per split, and what is known of the overlap of train and test.

    Args:
        results: the content of results.json.
    """
    rows = []
    for split, found in results.get("splits", {}).items():
        classes = [f"{label}: {count:,}" for label, count in found["classes"].items()]
        shown = [", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")]
        files = [_last_part(file) for file in found["files"]]
        shown.append(", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else ""))
        skipped = [f"{one['count']:,} ({one['reason']}; first {_last_part(one['first'])})" for one in found["skipped"]]
        rows.append((split, plain(found["rows"]), plain(found["used"]), *shown, ", ".join(skipped)))
    overlap = results.get("overlap", {})
    said = []
    if train := overlap.get("train"):
        said.append(f"{train['test_texts']:,} of {train['all_test_texts']:,} test texts stand in train, too.")
        if shared := train.get("texts_of_train_groups"):
            said.append(f"{shared:,} of {train['all_test_texts']:,} test texts belong to groups that train has, too.")
    if shared := overlap.get("validation", {}).get("texts_of_train_groups"):
        said.append(f"{shared:,} texts of the validation split belong to groups that train has, too.")
    if pretraining := overlap.get("pretraining"):
        said.append(
            "Whether test texts were pre-trained on is unknown."
            if pretraining == "unknown"
            else f"{pretraining['test_texts']:,} test texts were pre-trained on; {pretraining['documents_left_out']:,} "
            "documents that are equal to one were left out."
        )
    return {"rows": rows, "overlap": said} if rows else {}


def _last_part(file: str) -> str:
    """A file's name without the machine's folders; of a pattern such as ham/*.txt with its folder."""
    parts = file.replace("\\", "/").split("/")
    return "/".join(parts[-2:]) if parts[-1].startswith("*") else parts[-1]


def readable(key: str) -> str:
    """A key of a JSON file as words."""
    return key.replace("_gib", " (GiB)").replace("_", " ")


def plain(value: Any) -> str:
    """A value for a table cell: thousands separated, lists joined, anything deeper as JSON."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
