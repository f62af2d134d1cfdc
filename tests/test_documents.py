"""What README and docs point at is there."""

import re

import pytest

from conftest import ROOT


def test_the_tests_that_the_conformance_table_names_are_there():
    table = (ROOT / "tests" / "README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", table)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("document", ["README.md", "docs/decisions.md", "sample/README.md"])
def test_files_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text()
    homes = (ROOT, ROOT / "src" / "bertwright", ROOT / "recipes")
    # Not what a run leaves behind, and not patterns.
    named = re.findall(r"[\w./-]+/[\w./-]*\.(?:py|md|yaml|toml|txt)\b", text)
    named = [name for name in named if not name.startswith(("/", "runs/", "recipes/mine"))]
    for name in named:
        assert any((home / name).exists() for home in homes), f"{document} names {name}"


def test_every_room_of_the_package_stands_in_the_readme_s_map():
    text = (ROOT / "README.md").read_text()
    package = ROOT / "src" / "bertwright"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert rooms
    assert {room for room in rooms if f"{room}/" not in text} == set()
