"""What the evaluate stage writes of a run beside its metrics: what splits share, spread without intervals, a digest."""

import json
from dataclasses import dataclass

import pytest

from bertwright.evaluate.tables import results_table
from bertwright.text.overlap import content_digest
from bertwright.text.records import Record


def test_the_digest_of_a_test_set_tells_texts_labels_and_groups_and_not_where_they_lie():
    rows = [Record("test/0", "one", label="a", place="x.csv, line 2"), Record("test/1", "two", label="b")]
    elsewhere = [Record("test/7", "one", label="a", place="y.csv, line 9"), Record("test/8", "two", label="b")]
    assert content_digest(rows) == content_digest(elsewhere)
    others = [Record("", "two", label="a"), Record("", "one", label="b"), Record("", "one", label="a", group="g")]
    assert len({content_digest(found) for found in (rows, rows[::-1], *([one, rows[1]] for one in others))}) == 5


def test_a_field_that_records_get_later_changes_no_digest():
    @dataclass(frozen=True)
    class Later(Record):
        language: str | None = None

    given = {"text": "one", "text_pair": "two", "label": "a", "group": "g", "negative": "three"}
    assert content_digest([Later("", **given)]) == content_digest([Record("", **given)])
    assert content_digest([Record("", **given | {"negative": "four"})]) != content_digest([Record("", **given)])


@pytest.mark.slow
def test_a_test_set_of_one_group_that_train_has_is_said_and_its_seeds_have_a_spread(run_bundled, tmp_path, capsys):
    data = tmp_path / "mail"
    data.mkdir()
    for split, rows in (("train", 40), ("validation", 12), ("test", 10)):
        lines = []
        for number in range(rows):
            label = ("spam", "ham")[number % 2]
            group = "ann" if split == "test" or number < 6 else f"{split} {number}"
            row = {"text": f"A {label} letter, {number} of {split}.", "label": label, "author": group}
            lines.append(json.dumps(row) + "\n")
        (data / f"{split}.jsonl").write_text("".join(lines))
    source = {"path": str(data), "group_column": "author"}
    run = run_bundled("classification", data, source=source, seeds=[0, 1], max_length=32)
    results, said = run.results, capsys.readouterr().err
    assert "data.mail: 10 of 10 test texts belong to groups that train has, too" in said
    assert "data.mail: 6 of 12 validation texts belong to groups that train has, too" in said
    assert results["overlap"]["train"] == {"test_texts": 0, "all_test_texts": 10, "texts_of_train_groups": 10}
    assert results["overlap"]["validation"] == {"texts_of_train_groups": 6}
    assert results["resampled"]["count"] == 1
    assert "f1_low" not in results["scores"]["bert"]
    assert results["spread"]["f1"]["n"] == results["spread"]["accuracy"]["n"] == 2
    assert "BERT over 2 fine-tuning seeds" in results_table(results)
    assert len(results["test_digest"]) == 16
    page = (tmp_path / "run" / "report.html").read_text()
    assert "10 of 10 test texts belong to groups that train has, too." in page
    assert "6 texts of the validation split belong to groups that train has, too." in page
    assert "One fine-tuning seed" not in page
