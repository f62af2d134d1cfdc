"""The table of the benchmark on continued pre-training, and its frozen encoder."""

import json
import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import bertwright
import common
import continued
from bertwright.files import read_json, write_json
from bertwright.recipe import FinetuneConfig, Phase, PretrainConfig, to_dict
from bertwright.text.records import Record
from conftest import ROOT


def test_the_table_has_mean_and_spread_over_draws():
    one, other = {"processor": "a processor"}, {"processor": "another"}
    draws = {
        "25000": {"encoder": [{"f1": 0.9, "seconds": 5.0, **one}], "frozen": [{"f1": 0.8, "seconds": 1.0, **one}]},
        "100": {"encoder": [{"f1": 0.5, "seconds": 10.0, **one}, {"f1": 0.7, "seconds": 20.0, **other}]},
    }
    table = continued.table_of(draws)
    assert table["100"]["encoder"] == {
        "f1": pytest.approx(0.6),
        "sd": pytest.approx(np.std([0.5, 0.7], ddof=1)),
        "seconds": 15.0,
        "draws": 2,
        "processor": "a processor; another",
    }
    assert table["25000"]["encoder"]["sd"] is None
    assert continued.shown(table, {}).splitlines() == [
        "| system | 100 | 25,000 |",
        "|---|---|---|",
        "| encoder, fine-tuned | 0.600 ± 0.141 | 0.900 |",
        "| frozen encoder, logistic regression |  | 0.800 |",
    ]


def test_a_table_of_several_pre_trainings_has_their_losses():
    one = {"f1": 0.5, "sd": None, "draws": 1}
    table = {"500": {"encoder": one, "continued": one, "continued, muon": one}}
    losses = {"continued": {"heldout": {"mlm_loss": 4.126}}, "continued, muon": {"heldout": {"mlm_loss": 3.5}}}
    assert continued.shown(table, losses).splitlines() == [
        "| system | 500 | loss on held-out text |",
        "|---|---|---|",
        "| encoder, fine-tuned | 0.500 |  |",
        "| encoder, pre-training continued, fine-tuned | 0.500 | 4.13 |",
        "| continued, muon | 0.500 | 3.50 |",
    ]


def test_the_recorded_draws_are_continued():
    """A default that has changed since, or a setting that came later, would repeat an hour and all fine-tunings."""
    target = ROOT / "results" / "continued" / "draws.json"
    recipe = bertwright.load_recipe(ROOT / "recipes" / "imdb-continued.yaml")
    sections = {"pretrain": recipe.pretrain, "finetune": recipe.finetune}
    recorded = read_json(target)["settings"]
    today = recorded | {name: common.decided(to_dict(section), section) for name, section in sections.items()}
    assert common.resumed(target, today, sections)["draws"]


@pytest.mark.parametrize("name", ["continued", "continued/ablation"])
def test_the_readme_shows_the_results(name):
    folder, table = ROOT / "results" / name, ""
    if (folder / "results.json").exists():
        pretraining = read_json(folder / "draws.json").get("pretraining", {})
        table = continued.shown(read_json(folder / "results.json"), pretraining)
    begin, end = common.TABLE
    assert (folder / "README.md").read_text().partition(begin)[2].partition(end)[0].strip() == table


def test_a_table_is_written_between_the_marks_of_a_readme_and_nowhere_else(tmp_path):
    page, (begin, end) = tmp_path / "README.md", common.TABLE
    common.write_table(page, "| new |")
    assert not page.exists()
    page.write_text("# Text\n| other |\n")
    common.write_table(page, "| new |")
    assert page.read_text() == "# Text\n| other |\n"
    page.write_text(f"# Text\n\n{begin}\n| old |\n{end}\n\nMore text.\n")
    for _ in range(2):
        common.write_table(page, "| new |")
        assert page.read_text() == f"# Text\n\n{begin}\n\n| new |\n\n{end}\n\nMore text.\n"


DRAWS = {"100": {"encoder": [{"f1": 0.5, "seconds": 1.0}]}}


class TestResuming:
    @pytest.fixture
    def sections(self):
        pretrain = PretrainConfig(encoder="bundled", dropout=0.0, max_minutes=60, phases=(Phase(),))
        return {"pretrain": pretrain, "finetune": FinetuneConfig(data="imdb", label_names=("negative", "positive"))}

    @pytest.fixture
    def resumed(self, sections, tmp_path):
        def resumed(recorded):
            """Whether draws that were recorded with these settings are continued; else they are left alone."""
            today = {"minutes": 60.0} | {name: common.decided(to_dict(one), one) for name, one in sections.items()}
            earlier = {"settings": {"minutes": 60.0, **recorded}, "draws": DRAWS}
            write_json(tmp_path / "draws.json", earlier)
            try:
                assert common.resumed(tmp_path / "draws.json", today, sections) == earlier
            except SystemExit as refused:
                said = "draws.json has results by other settings; give other places: --out and --work"
                return str(refused) != f"{tmp_path}/{said}"
            return True

        return resumed

    @pytest.mark.parametrize("form", ["as they are recorded today", "all settings, as they were recorded at first"])
    def test_what_came_later_at_its_default_and_the_machine_s_do_not_count(self, sections, resumed, form):
        recorded = {name: to_dict(one) for name, one in sections.items()}
        if form.endswith("today"):
            recorded = {name: common.decided(recorded[name], one) for name, one in sections.items()}
            assert recorded["pretrain"].keys() >= {"dropout", "masking", "phases", "optimizer"}
            left_out = {"frozen_layers", "max_minutes", "max_steps", "micro_batch_tokens", "log_every"}
            assert not left_out & recorded["pretrain"].keys()
            assert "masking_rate" not in recorded["pretrain"]["phases"][0]
            assert "embedding" not in recorded["finetune"]
        assert resumed(recorded)
        for part, name in (
            (recorded["pretrain"], "frozen_layers"),
            (recorded["pretrain"]["phases"][0], "masking_rate"),
        ):
            part.pop(name, None)  # from before there was the setting
        assert resumed(recorded)

    @pytest.mark.parametrize(
        "change",
        [
            lambda pretrain, finetune: pretrain.update(frozen_layers=2),
            lambda pretrain, finetune: pretrain.pop("dropout"),
            lambda pretrain, finetune: pretrain["phases"][0].update(masking_rate=0.3),
            lambda pretrain, finetune: pretrain["phases"].append(pretrain["phases"][0]),
            lambda pretrain, finetune: pretrain["optimizer"].update(learning_rate=1e-4),
            lambda pretrain, finetune: pretrain["masking"].update(rate=0.3),
            lambda pretrain, finetune: finetune.update(epochs=9.0),
        ],
    )
    def test_what_decides_the_result_does(self, sections, resumed, change):
        recorded = {name: to_dict(one) for name, one in sections.items()}
        change(recorded["pretrain"], recorded["finetune"])
        assert not resumed(recorded)

    def test_without_an_earlier_measurement_all_is_new(self, sections, tmp_path):
        today = {"minutes": 1.0}
        assert common.resumed(tmp_path / "draws.json", today, sections) == {"settings": today}


@pytest.mark.slow
def test_a_changed_variant_is_not_taken_for_the_one_that_was_drawn(monkeypatch, tmp_path):
    """Recipes, folders and labels are the real ones; nothing is trained."""
    places = []

    def fine_tuned(recipe, config, encoder, reviews, rows, folder):
        places.append(folder.name)
        return np.eye(2)[reviews.truth], 1.0

    def continue_encoder(recipe, encoder, minutes, imdb, out):
        places.append(out.name)
        return tmp_path / "model", 1.0

    monkeypatch.setattr(continued, "ROOT", tmp_path)
    monkeypatch.setattr(continued, "fine_tuned", fine_tuned)
    monkeypatch.setattr(continued, "continue_encoder", continue_encoder)
    monkeypatch.setattr(continued, "plot", lambda table, folder: None)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    common.write_lines(tmp_path / "metrics.jsonl", [{"kind": "eval", "step": 9, "mlm_loss": 4.0}])
    (tmp_path / "imdb").mkdir()
    for split in ("train", "test"):
        rows = [json.dumps({"text": f"{split} {i}", "label": i % 2}) for i in range(8)]
        (tmp_path / "imdb" / f"{split}.jsonl").write_text("\n".join(rows))

    def measure(**options):
        places.clear()
        continued.main(
            str(tmp_path / "imdb"), "bundled", sizes=(4,), draws=1, work=str(tmp_path / "work"), out="out", **options
        )
        return list(places)

    assert measure(systems=("continued", "encoder", "bundled")) == [
        "pretrained-continued", "continued-4-0", "encoder-4-0", "bundled-4-0"
    ]  # fmt: skip
    file = tmp_path / "out" / "draws.json"
    known = read_json(file)
    assert known["pretraining"]["continued"]["heldout"] == {"mlm_loss": 4.0}
    write_json(file, {name: value for name, value in known.items() if name != "systems"})  # as earlier draws are
    first = measure(systems=("continued", "encoder", "bundled"), rows=("lower-rate",))
    assert [name.rpartition("lower-rate")[0] for name in first] == ["pretrained-continued-", "continued-"]
    assert measure(systems=(), rows=("lower-rate",)) == []
    variant = tmp_path / "recipes" / "continued" / "lower-rate.yaml"
    variant.write_text(variant.read_text().replace("7.0e-5", "6.0e-5"))
    with pytest.raises(SystemExit, match=r"has results of `continued, lower-rate` by other settings; give other"):
        measure(systems=(), rows=("lower-rate",))
    assert read_json(file)["draws"]["4"]["continued, lower-rate"], "what was drawn stays"
    file.unlink()
    second = measure(systems=(), rows=("lower-rate",))
    assert len(second) == 2
    assert not set(first) & set(second), "the classifier of the old pre-training is not used again"
    recipe = tmp_path / "recipes" / "imdb-mini.yaml"
    measure(systems=("bundled",))
    recipe.write_text(recipe.read_text().replace("epochs: ", "epochs: 1"))
    with pytest.raises(SystemExit, match="has results of `bundled` by other settings"):
        measure(systems=("bundled",))


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
    assert len(variants) == 7
    plain = bertwright.load_recipe(base)
    loaded = [bertwright.load_recipe([base, path]) for path in variants]
    assert len({str(one) for one in [plain, *loaded]}) == 8
    for path, one in zip(variants, loaded, strict=True):  # each changes one of the two
        assert (one.finetune == plain.finetune) != (path.stem == "self-training")
        assert (one.pretrain == plain.pretrain) == (path.stem in ("self-training", "new-words"))


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
