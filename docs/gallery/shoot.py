"""The pictures of docs/gallery.md: the report of imdb-mini, and the server's page with the bundled model.

Run `python docs/gallery/shoot.py` after a change of the page or the report. It wants Chromium, and takes a minute.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import bertwright
from bertwright.apps.search import build, open_searcher
from bertwright.apps.server import make_app
from serving import Server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COLOURS = 128
"""A screenshot of text and flat areas looks the same with so many, at a third of the bytes."""


def keep(picture: bytes, name: str) -> None:
    """Write a screenshot with few colours."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)


def shoot_report(browser: Browser) -> None:
    """The results at the top of the report, and its learning curves."""
    page = browser.new_page(viewport={"width": 1100, "height": 1340})
    page.goto((ROOT / "results" / "imdb-mini" / "report.html").as_uri())
    keep(page.screenshot(), "report")
    place = page.locator("#pretraining img").first.bounding_box()
    clip = {"x": 0, "y": place["y"] - 20, "width": 1100, "height": 680}
    keep(page.screenshot(full_page=True, clip=clip), "learning-curves")
    page.close()


def send(page: Page, tab: str, text: str) -> None:
    """Fill in the form of a tab, press its button and wait for the answer."""
    page.locator(f"[aria-controls={tab}]").click()
    panel = page.locator(f"#{tab}")
    panel.locator("[name=text]").fill(text)
    panel.locator("button.act").click()
    panel.locator("form[aria-busy=false]").wait_for(timeout=60_000)  # the words are coloured by a second request


def shoot_page(browser: Browser) -> None:
    """Three tabs of the server's page."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        build(str(ROOT / "sample" / "reviews" / "test.jsonl"), str(index), hybrid=True)
        with Server(make_app(bertwright.load(), searcher=open_searcher(index))) as client:
            page = browser.new_page(viewport={"width": 1000, "height": 800})
            page.goto(str(client.base_url))
            for tab, text in (
                ("classify", "The plot is silly, but the actors are wonderful and I laughed a lot."),
                ("attention", "The boat was old, and it sank in May."),
                ("search", "a film about a sea voyage"),
            ):
                send(page, tab, text)
                place = page.locator("[role=tablist]").bounding_box()
                bottom = page.evaluate("document.documentElement.scrollHeight")
                height = min(bottom - place["y"] + 16, 1000)
                clip = {"x": 40, "y": place["y"] - 16, "width": 920, "height": height}
                keep(page.screenshot(full_page=True, clip=clip), tab)


def main() -> None:
    """Take all pictures."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        shoot_report(browser)
        shoot_page(browser)
        browser.close()


if __name__ == "__main__":
    main()
