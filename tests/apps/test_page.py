"""The server's page in headless Chromium, at the width of a desk and of a phone.

Wants a Chromium or Chrome on the machine; without one these tests skip.
"""

import json
import shutil

import httpx2
import pytest
import torch
from playwright.sync_api import Page, expect, sync_playwright
from safetensors.torch import load_file, save_file

import bertwright
from bertwright.apps.batching import Limits
from bertwright.apps.search import build, open_searcher
from bertwright.apps.server import make_app
from serving import Server
from small_models import save_tagger

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
def twelve(tmp_path_factory):
    """The address of a server with somebody's own model: twelve classes with long names, and weights at random."""
    folder = tmp_path_factory.mktemp("own") / "tickets"
    shutil.copytree(bertwright.load("bundled").classifier_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    labels = {str(i): f"queue {i}: " + "Rechnungsstellungsangelegenheiten" * (1 + i % 3) for i in range(12)}
    names = {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}
    (folder / "config.json").write_text(json.dumps({**config, **names}))
    weights = load_file(folder / "model.safetensors")
    width = weights["classifier.weight"].shape[1]
    drawn = torch.randn(12, width, generator=torch.Generator().manual_seed(0))
    save_file({**weights, "classifier.weight": drawn, "classifier.bias": torch.zeros(12)}, folder / "model.safetensors")
    with Server(make_app(bertwright.load(folder))) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def visit(request, browser, tmp_path):
    """Opens an address without any other network; afterwards nothing has failed, and nothing runs out of the page."""
    width, height = WIDTHS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    errors, pages = [], []

    def visit(address, path="/"):
        context.route(lambda url: not url.startswith(address), lambda route: errors.append(route.request.url))
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address + path)
        pages.append(page)
        return page

    yield visit
    assert errors == []
    for page in pages:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"{request.param}.png", full_page=True)
    context.close()


@pytest.fixture
def page(visit, address):
    return visit(address)


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
    expect(answer.get_by_role("row")).to_have_count(0)  # the list of words is closed
    expect(answer.locator(".text")).to_have_text("A dreadful film, the worst of the year.\nBoring & <b>bad</b>.")
    shade = answer.locator("mark", has_text="worst").evaluate("mark => getComputedStyle(mark).backgroundColor")
    assert shade.startswith("rgba(34, 139, 84")  # the colour of words for the predicted class


def test_the_examples_of_the_page_are_of_the_class_that_it_says(page):
    answer = page.locator("#classify output")
    for label in ("positive", "negative"):
        page.get_by_role("button", name=f"a {label} review").click()
        expect(answer.locator(".prediction")).to_contain_text(label)
        expect(answer.locator("mark").first).to_be_visible()


def test_a_text_too_long_to_explain_is_classified_all_the_same(page):
    answer = ask(page, "Classify", "Classify", text="The film was long and good. " * 120)
    expect(answer.locator(".prediction")).to_contain_text("positive")
    expect(answer).to_contain_text("No words are coloured. The request has")


def test_the_page_of_another_model_shows_its_classes_and_no_film_reviews(visit, twelve):
    page = visit(twelve)
    assert "film" not in page.content().lower()
    expect(page.locator("#model")).to_contain_text("tickets: queue 0")
    assert page.locator("#classify [name=text]").input_value() == ""
    expect(page.locator(".examples")).to_be_hidden()
    answer = ask(page, "Classify", "Classify", text="The invoice is wrong. " + "W" * 400)
    expect(answer.locator("table").first.locator("tr")).to_have_count(12)
    expect(answer.locator("mark").first).to_be_visible()


def test_entities_are_marked_in_the_text_and_listed(visit, small_tokenizer, tmp_path):
    save_tagger(small_tokenizer, tmp_path / "names", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], seed=2)
    text = "The \U0001f44d cat <b>sat</b> on\na mat while rain was falling."
    model = bertwright.load(tmp_path / "names")
    found = model.predict(text).entities
    assert len({one.label for one in found}) == 2
    with Server(make_app(model)) as client:
        page = visit(str(client.base_url))
        answer = ask(page, "Classify", "Classify", text=text)
        marks = answer.locator("mark.entity")
        expect(marks).to_have_text([f"{one.text}{one.label}" for one in found])
        expect(answer.get_by_role("row")).to_have_count(len(found))
        shown = answer.locator(".text").evaluate(
            "text => { text.querySelectorAll('small').forEach(label => label.remove()); return text.textContent; }"
        )
        assert shown == text


def test_the_page_is_used_with_the_keyboard_and_its_fields_have_names(page):
    page.get_by_role("tab", name="Classify").focus()
    for tab in ("Fill masks", "Attention", "Next sentence", "Classify", "Fill masks"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=tab)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="A text with one [MASK] or more")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#fill output table").first).to_be_visible()


def test_masks_are_filled(page):
    answer = ask(page, "Fill masks", "Fill", text="The [MASK] was so bad that I left the [MASK].")
    expect(answer.locator("table")).to_have_count(2)
    expect(answer.locator("table").first.locator("tr")).to_have_count(6)


def test_attention_is_drawn_for_the_head_that_is_chosen(page):
    answer = ask(page, "Attention", "Show", text="Not a good film.")
    cells = answer.locator("tbody td")
    expect(cells).to_have_count(49)  # seven tokens, [CLS], [SEP] and the full stop among them
    first = cells.evaluate_all("cells => cells.map(cell => cell.title)")
    answer.locator("select[name=Head]").select_option("1")
    assert cells.evaluate_all("cells => cells.map(cell => cell.title)") != first


def test_two_texts_are_compared(page):
    answer = ask(page, "Next sentence", "Compare", first="The boat was old.", second="It sank in May.")
    expect(answer.locator(".prediction")).to_contain_text("probability that it follows")


@pytest.fixture(scope="module")
def searching(tmp_path_factory):
    """The address of a server with an index of three texts."""
    folder = tmp_path_factory.mktemp("search")
    lines = ["The boat sank in May. <b>Nobody</b> was on board.", "The bakers worked through the night.", "old " * 400]
    (folder / "notes.txt").write_text("\n".join(lines))
    build(str(folder / "notes.txt"), str(folder / "index"))
    model = bertwright.load("bundled")
    with Server(make_app(model, searcher=open_searcher(folder / "index", loaded=model))) as client:
        yield str(client.base_url)


def test_texts_of_an_index_are_found_and_stay_text(visit, searching):
    page = visit(searching, "/#search")
    expect(page.get_by_role("tabpanel", name="Search")).to_be_visible()
    answer = ask(page, "Search", "Search", text="The boat sank in May. <b>Nobody</b> was on board.")
    expect(answer.get_by_role("listitem")).to_have_count(3)
    expect(answer.get_by_role("listitem").first).to_contain_text("The boat sank in May. <b>Nobody</b> was on board.")
    expect(answer.get_by_role("listitem").first).to_contain_text("notes.txt, line 1; score ")
    expect(answer.get_by_role("listitem").last).to_contain_text(" …")


def test_a_page_without_an_index_has_no_search(page):
    expect(page.get_by_role("tab")).to_have_count(4)
    expect(page.locator("#search")).to_have_count(0)


def test_a_refusal_is_shown_as_a_sentence(page):
    expect(ask(page, "Fill masks", "Fill", text="No mask here.").locator(".error")).to_contain_text("[MASK]")


def test_an_empty_text_is_said_before_anything_is_sent(page):
    expect(ask(page, "Classify", "Classify", text=" ").get_by_role("alert")).to_contain_text("There is no text yet")


def test_a_text_too_long_is_refused_in_words(page):
    answer = ask(page, "Fill masks", "Fill", text="A [MASK] film." + " It was long." * 200)
    expect(answer.get_by_role("alert")).to_contain_text("tokens, and the model reads 510; shorten it")


def test_a_server_that_is_slow_or_gone_is_said_in_words(visit):
    with Server(make_app(bertwright.load("bundled"), Limits(seconds=0.0))) as client:
        page = visit(str(client.base_url))
        expect(ask(page, "Fill masks", "Fill").get_by_role("alert")).to_contain_text("There was no answer within 0 sec")
    expect(ask(page, "Fill masks", "Fill").get_by_role("alert")).to_contain_text("The server does not answer")


def test_the_api_is_described_and_tried_without_the_network(visit, address):
    page = visit(address, "/docs")
    paths = httpx2.get(f"{address}/openapi.json").json()["paths"]
    expect(page.locator("section")).to_have_count(len(paths))
    for section in page.locator("section").all():
        section.get_by_role("button", name="Send").click()
        expect(section.locator("pre")).to_contain_text("200")
    section = page.locator("section", has_text="POST /predict")
    section.get_by_role("textbox", name="Body").fill('{"text": "A film."}')
    section.get_by_role("button", name="Send").click()
    expect(section.locator("pre")).to_contain_text("is missing")
