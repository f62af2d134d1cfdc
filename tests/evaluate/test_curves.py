"""Metrics files are read as a run leaves them, and curves are smoothed without being bent."""

import json

import numpy as np
import pytest

from bertwright.evaluate.curves import read_metrics
from bertwright.evaluate.plots import smooth


def test_a_metrics_file_cut_off_in_its_last_line_is_read_up_to_there_and_repeated_steps_count_once(tmp_path):
    rows = [{"kind": "train", "step": step, "loss": loss} for step, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "train", "st', encoding="utf-8")
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 5),
        (2, 4.5),
        (3, 3),
    ]
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_smoothing_keeps_straight_lines():
    line = np.linspace(3, 9, 500)
    smoothed = smooth(line)
    inner = np.isfinite(smoothed)
    assert inner.mean() > 0.95
    assert smoothed[inner] == pytest.approx(line[inner])
    assert smooth(line[:50]) == pytest.approx(line[:50])


def test_smoothing_averages_and_ends_where_single_points_would_decide():
    noise = np.random.default_rng(0).normal(size=1000)
    smoothed = smooth(noise)
    assert len(smoothed) == 1000
    assert np.nanstd(smoothed) < 0.5 * noise.std()
    assert np.nanmax(np.abs(smoothed)) < 1
    assert np.isnan(smoothed[[0, -1]]).all()


def test_half_a_line_glued_to_the_next_costs_one_point_and_not_the_report(tmp_path):
    text = '{"kind": "tra{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"kind": "train", "step": 2}]
