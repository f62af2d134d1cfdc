"""Write the reports of the whole runs in results/ anew, from the files that are kept of them.

    python benchmarks/recorded_reports.py

A folder of results/ that has predictions has the files of a run folder, under other names. After a change of the report
its page and plots are written again from these; nothing is trained or predicted.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from jsonargparse import auto_cli

from bertwright.evaluate.report import write_report

RESULTS = Path(__file__).resolve().parents[1] / "results"
PLACES = {
    "recipe.yaml": "recipe.yaml",
    "environment.json": "environment.json",
    "results.json": "results.json",
    "data_report.json": "prepare/data_report.json",
    "pretrain.jsonl": "pretrain/metrics.jsonl",
    "finetune.jsonl": "finetune/seed-0/metrics.jsonl",
    "finetune-seed-1.jsonl": "finetune/seed-1/metrics.jsonl",
    "examples.json": "evaluate/examples.json",
    "predictions": "evaluate/predictions",
}
"""Where a run folder has what results/ keeps."""


def renew(recorded: Path, run: Path) -> None:
    """Write report.html and plots/ of a folder in results/.

    Args:
        recorded: the folder.
        run: an empty folder to make a run folder of.
    """
    for name, place in PLACES.items():
        if (recorded / name).exists():
            (run / place).parent.mkdir(parents=True, exist_ok=True)
            (run / place).symlink_to(recorded / name)
    shutil.copy(write_report(run), recorded)
    shutil.rmtree(recorded / "plots", ignore_errors=True)
    shutil.copytree(run / "plots", recorded / "plots")


def main() -> None:
    """Renew all."""
    for predictions in sorted(RESULTS.glob("*/predictions")):
        with tempfile.TemporaryDirectory() as run:
            renew(predictions.parent, Path(run))
        print(predictions.parent.name)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
