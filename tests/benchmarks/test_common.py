"""What the benchmarks share: rows that are measured once, by several processes, whatever happens to one of them."""

import multiprocessing
import threading
import time

import pytest

import common
from bertwright.files import read_json, write_json

ORDER = ("first", "second", "third")


def measured(folder, rows=ORDER, seeds=(0,), measure=lambda name, seed: {"figure": seed}, settings=None):
    common.measure_rows(folder, settings or {"minutes": 1}, ORDER, rows, seeds, measure, lambda found: str(list(found)))


def test_a_row_that_fails_stops_no_other(tmp_path, capsys):
    def measure(name, seed):
        if name == "second":
            raise ValueError("the second one is wrong")
        return {"figure": 1}

    with pytest.raises(SystemExit, match="failed, with errors above: second, seed 0;"):
        measured(tmp_path, measure=measure)
    assert "ValueError: the second one is wrong" in capsys.readouterr().err
    assert read_json(tmp_path / "results.json")["rows"].keys() == {"first", "third"}
    measured(tmp_path)
    assert list(read_json(tmp_path / "results.json")["rows"]) == list(ORDER)


def test_odd_seeds_go_backwards_and_the_table_does_not(tmp_path):
    asked = []
    measured(tmp_path, seeds=(1, 2), measure=lambda name, seed: asked.append((seed, name)) or {})
    assert asked == [(1, "third"), (1, "second"), (1, "first"), (2, "first"), (2, "second"), (2, "third")]
    assert list(read_json(tmp_path / "results.json")["rows"]) == list(ORDER)


def test_rows_of_other_settings_do_not_stand_beside(tmp_path):
    measured(tmp_path)
    with pytest.raises(SystemExit, match="another recipe, of other texts"):
        measured(tmp_path, seeds=(1,), settings={"minutes": 2})


def slowly(value):
    time.sleep(0.005)
    return str(value)


def measure_seeds(folder, seeds):
    common.measure_rows(folder, {}, ORDER, ORDER, seeds, lambda name, seed: {}, slowly)


@pytest.mark.slow
def test_processes_that_end_rows_at_the_same_time_lose_none(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=measure_seeds, args=(tmp_path, range(start, 40, 2))) for start in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    found = read_json(tmp_path / "results.json")["rows"]
    assert {name: [run["seed"] for run in runs] for name, runs in found.items()} == {
        name: list(range(40)) for name in ORDER
    }


def test_processes_that_are_started_together_prepare_one_after_the_other(small_recipe, tmp_path, monkeypatch):
    at_work, done = threading.Lock(), []

    def run(recipe, stages):
        assert at_work.acquire(blocking=False), "another bertwright command is at work"
        time.sleep(0.1)
        at_work.release()
        done.append((recipe.out, stages))

    monkeypatch.setattr(common.bertwright, "run", run)
    both = [threading.Thread(target=common.prepare_once, args=(small_recipe(), tmp_path / "corpus")) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert done == [(str(tmp_path / "corpus"), ["prepare"])] * 2


def test_figures_of_another_processor_are_not_overwritten(tmp_path):
    kinds = {"old.json": "AMD EPYC, 2 cores (avx512_bf16)", "unknown.json": "AMD EPYC, 2 cores"}
    for name, machine in kinds.items():
        write_json(tmp_path / name, {"machine": machine})
        common.write({"processor": "amx"}, str(tmp_path / name))
        assert read_json(tmp_path / name) == {"machine": machine}
        assert read_json((tmp_path / name).with_suffix("").with_name(f"{name[:-5]}-amx.json")) == {"processor": "amx"}
    common.write({"processor": "avx512"}, str(tmp_path / "old.json"))
    assert read_json(tmp_path / "old.json") == {"processor": "avx512"}
    common.write({"processor": "amx"}, str(tmp_path / "speed-KIND.json"))
    assert read_json(tmp_path / "speed-amx.json") == {"processor": "amx"}


@pytest.mark.slow
def test_a_result_says_its_processor():
    found = common.described()
    assert found["processor"] == common.processor(found) == common.processor_of(found)


def test_a_difference_shows_each_seed():
    base = [{"seed": seed, "loss": loss} for seed, loss in ((0, 5.0), (1, 5.2))]
    runs = [{"seed": seed, "loss": loss} for seed, loss in ((0, 4.9), (1, 5.3), (2, 1.0))]
    assert common.differences(runs, base, "loss", 2) == "+0.00 (-0.10, +0.10)"
    assert common.differences(runs, [], "loss", 2) == ""
