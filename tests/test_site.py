"""What the site adds to its pages, in headless Chromium."""

import shutil

import pytest
from sphinx.cmd.build import main as build

from conftest import ROOT

pytestmark = pytest.mark.browser


def test_the_options_on_the_site_are_found_by_their_full_names(browser, tmp_path):
    for name in ("options.md", "static", "conf.py"):
        copy = shutil.copytree if (ROOT / "docs" / name).is_dir() else shutil.copy
        copy(ROOT / "docs" / name, tmp_path / name)
    assert build(["-q", "-D", "master_doc=options", str(tmp_path), str(tmp_path / "site")]) == 0
    page = browser.new_page()
    page.goto((tmp_path / "site" / "options.html").as_uri())
    rows = page.locator("tbody tr:visible td:first-child")
    assert rows.count() > 100
    for wanted, found in (
        ("finetune.epochs", ["finetune.epochs"]),
        ("Finetune.optimizer warmup", ["finetune.optimizer.warmup_ratio"]),
        ("no such option", []),
    ):
        page.locator("#option-filter").fill(wanted)
        assert rows.all_inner_texts() == found
    assert page.locator("h2:visible").count() == 0
