"""The table of the benchmark on continued pre-training, and its frozen encoder."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import bertwright
import continued
from bertwright.text.records import Record
from conftest import ROOT


def test_the_table_has_mean_and_spread_over_draws():
    draws = {"25000": {"encoder": [{"f1": 0.9, "seconds": 5.0}], "frozen": [{"f1": 0.8, "seconds": 1.0}]},
             "100": {"encoder": [{"f1": 0.5, "seconds": 10.0}, {"f1": 0.7, "seconds": 20.0}]}}  # fmt: skip
    table = continued.table_of(draws, "a processor")
    assert table["100"]["encoder"] == {
        "f1": pytest.approx(0.6),
        "sd": pytest.approx(np.std([0.5, 0.7], ddof=1)),
        "seconds": 15.0,
        "draws": 2,
        "processor": "a processor",
    }
    assert continued.shown(table).splitlines() == [
        "| system | 100 | 25,000 |",
        "|---|---|---|",
        "| encoder, fine-tuned | 0.600 ± 0.141 | 0.900 ± 0.000 |",
        "| frozen encoder, logistic regression |  | 0.800 ± 0.000 |",
    ]


@pytest.mark.slow
def test_the_figure_has_the_systems_that_were_measured(tmp_path):
    one = {"f1": 0.5, "sd": 0.1, "seconds": 1.0}
    continued.plot({"100": {"encoder": one, "naive_bayes": one}, "500": {"encoder": one}}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["continued-dark.png", "continued.png"]
    assert set(continued.DRAWN) <= continued.NAMES.keys()


@pytest.mark.slow
def test_every_variant_differs_from_the_recipe_and_loads():
    base = ROOT / "recipes" / "imdb-continued.yaml"
    variants = sorted((ROOT / "recipes" / "continued").glob("*.yaml"))
    assert len(variants) == 6
    plain = bertwright.load_recipe(base)
    loaded = [bertwright.load_recipe([base, path]) for path in variants]
    assert len({str(one) for one in [plain, *loaded]}) == 7
    assert all(one.finetune == plain.finetune for one in loaded), "they differ in pre-training alone"


@pytest.mark.slow
def test_the_frozen_encoder_s_vectors_are_kept_and_its_seconds_count_only_what_is_read(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    vectors[:40, 0] += 4 * labels
    vectors[40:, 0] += 4 * (np.arange(20) % 2)
    for name, values in (("train", vectors[:40]), ("test", vectors[40:]), ("seconds", np.array(0.5))):
        np.save(tmp_path / f"{name}.npy", values)
    records = [Record(id=str(label), text="", label=str(label)) for label in labels]
    reviews = continued.Reviews(records, labels, records[:20], np.arange(20) % 2)
    rows = np.arange(10, 30)
    found, seconds = continued.Frozen(tmp_path / "no-encoder", reviews, tmp_path).predict(rows)
    assert found.shape == (20, 2)
    assert (found.argmax(1) == reviews.truth).mean() > 0.9
    assert 0 < seconds - 0.5 * (20 + 20) < 30
    plain = LogisticRegression().fit(vectors[rows], labels[rows]).predict(vectors[40:])
    assert (plain == found.argmax(1)).mean() > 0.9
