"""Metrics files are read as a run leaves them, and curves are smoothed without being bent."""

import json

import numpy as np
import pytest

from bertwright.evaluate.curves import finetune_figures, pretrain_figures, read_metrics
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


@pytest.mark.slow
def test_a_causal_language_model_has_curves_of_its_own_loss_and_accuracy(tmp_path):
    rows = [
        {"kind": "train", "step": step, "seconds": float(step), "phase": 0, "clm_loss": 5 / step, "clm_accuracy": 0.1}
        for step in (1, 2, 3)
    ]
    rows.append({"kind": "eval", "step": 3, "seconds": 3.0, "clm_loss": 2.0, "clm_accuracy": 0.2})
    figures = pretrain_figures(rows, [32], tmp_path)
    assert [figure["name"] for figure in figures] == ["loss", "clm-accuracy"]
    assert figures[0]["alt"].startswith(
        "Causal language model: loss, over time. Training goes from 5 to 1.67; held out"
    )
    assert all((tmp_path / f"{figure['name']}{theme}.png").is_file() for figure in figures for theme in ("", "-dark"))


@pytest.mark.slow
def test_fine_tuning_shows_the_metric_of_the_task(tmp_path):
    rows = [{"kind": "eval", "step": step, "loss": 1 / step, "spearman": 0.1 * step} for step in (1, 2)]
    figures = finetune_figures({"0": rows}, tmp_path, "spearman")
    assert [figure["name"] for figure in figures] == ["finetune-loss", "finetune-spearman"]
    assert (
        "Spearman correlation on the validation set, over steps. Validation goes from 0.1 to 0.2." in figures[1]["alt"]
    )
