"""The reports of whole runs that are committed say what their results and predictions say today."""

import pytest

from bertwright.evaluate.comparison import comparison, saved_predictions
from bertwright.evaluate.report import coded
from bertwright.files import read_json
from recorded_reports import RESULTS

RECORDED = sorted(path.parent for path in RESULTS.glob("*/predictions"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_a_recorded_report_has_the_comparison_of_its_predictions(folder):
    predictions = saved_predictions(folder / "predictions")
    assert "bert" in predictions, "its ROC curve would be missing"
    found = comparison(read_json(folder / "results.json"), predictions)
    page = (folder / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "the 95 % interval of the difference is" in found["text"]
    assert coded(found["text"]) in page, "run benchmarks/recorded_reports.py"


def test_there_are_recorded_runs():
    assert len(RECORDED) >= 3
