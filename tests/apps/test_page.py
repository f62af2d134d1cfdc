"""The server's page in headless Chromium, at the width of a desk and of a phone.

Wants a Chromium or Chrome on the machine; without one these tests skip.
"""

import shutil

import pytest
from playwright.sync_api import Page, expect, sync_playwright

import bertwright
from bertwright.apps.server import make_app
from serving import Server

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page is not tested"),
]


@pytest.fixture(scope="module")
def address():
    with Server(make_app(bertwright.load("bundled"))) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(request, browser, address, tmp_path):
    width, height = WIDTHS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing runs out of the page
    page.screenshot(path=tmp_path / f"{request.param}.png", full_page=True)
    context.close()


def ask(page: Page, tab: str, button: str, **fields: str):
    """Open a tab, fill its form in, press its button; returns the place of the answer."""
    page.get_by_role("tab", name=tab).click()
    form = page.locator("form:visible")
    for name, text in fields.items():
        form.locator(f"[name={name}]").fill(text)
    form.get_by_role("button", name=button, exact=True).click()
    return form.locator("output")


def test_a_text_is_classified_and_its_words_are_coloured(page):
    answer = ask(page, "Classify", "Classify", text="A dreadful film, the worst of the year.\nBoring & <b>bad</b>.")
    expect(answer.locator(".prediction")).to_contain_text("negative")
    expect(answer.locator(".text")).to_have_text("A dreadful film, the worst of the year.\nBoring & <b>bad</b>.")
    shade = answer.locator("mark", has_text="worst").evaluate("mark => getComputedStyle(mark).backgroundColor")
    assert shade.startswith("rgba(34, 139, 84")  # the colour of words for the predicted class


def test_masks_are_filled(page):
    answer = ask(page, "Fill masks", "Fill", text="The [MASK] was so bad that I left the [MASK].")
    expect(answer.locator("table")).to_have_count(2)
    expect(answer.locator("table").first.locator("tr")).to_have_count(7)


def test_attention_is_drawn_for_the_head_that_is_chosen(page):
    answer = ask(page, "Attention", "Show", text="Not a good film.")
    cells = answer.locator("tbody td")
    expect(cells).to_have_count(49)  # seven tokens, [CLS], [SEP] and the full stop among them
    first = cells.evaluate_all("cells => cells.map(cell => cell.title)")
    answer.locator("select[name=Head]").select_option("1")
    assert cells.evaluate_all("cells => cells.map(cell => cell.title)") != first


def test_two_texts_are_compared(page):
    answer = ask(page, "Next sentence", "Compare", first="The boat was old.", second="It sank in May.")
    expect(answer.locator(".prediction")).to_contain_text("probability that it does")


def test_a_refusal_is_shown_as_a_sentence(page):
    expect(ask(page, "Fill masks", "Fill", text="No mask here.").locator(".error")).to_contain_text("[MASK]")
