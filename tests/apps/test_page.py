"""The server's page in headless Chromium, at the width of a desk and of a phone.

Wants a Chromium or Chrome on the machine; without one these tests skip.
"""

import json
import re
import shutil
import subprocess

import httpx2
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

import bertwright
from bertwright.apps.batching import Limits
from bertwright.apps.explain import explain
from bertwright.apps.page import settings
from bertwright.apps.search import build, open_searcher
from bertwright.apps.server import make_app
from bertwright.evaluate.report import write_report
from bertwright.evaluate.suite import Entry, Suite, write_suite
from bertwright.files import read_json, write_json
from bertwright.models.answer_heads import ChoiceHead, SpanHead
from bertwright.models.checkpoints import new_encoder, save_model
from bertwright.models.embedding_head import EmbeddingHead
from bertwright.models.heads import SequenceHead, TaskModel
from bertwright.models.sentence_folder import Pooling
from conftest import ROOT
from serving import Server
from small_models import SHAPE, save_tagger, shaken

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
pytestmark = pytest.mark.browser


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
    panel = page.locator("section:visible")
    for name, text in fields.items():
        panel.locator(f"[name={name}]").fill(text)
    panel.get_by_role("button", name=button, exact=True).click()
    return panel.locator("output")


def test_a_text_is_classified_and_its_words_are_coloured(page):
    answer = ask(page, "Classify", "Classify", text="A dreadful film, the worst of the year.\nBoring & <b>bad</b>.")
    expect(answer.locator(".prediction")).to_contain_text("negative")
    probabilities = bertwright.load("bundled").predict("A dreadful film, the worst of the year.\nBoring & <b>bad</b>.")
    rows = answer.get_by_role("row")  # of all classes: the list of words is closed
    expect(rows).to_have_count(2)
    for row, label in zip(rows.all(), ("negative", "positive"), strict=True):
        name, score = row.get_by_role("rowheader"), row.get_by_role("cell").first
        expect(name).to_have_text(label)
        shown = float(score.inner_text().removesuffix(" %"))
        assert shown == pytest.approx(100 * probabilities.probabilities[label], abs=0.2)
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
    expect(page.get_by_role("heading", name="tickets")).to_be_visible()
    expect(page.locator("#about")).to_have_text("Assigns one of 12 classes to a text.")
    expect(page.locator("#labels li")).to_have_count(12)
    assert page.locator("#classify [name=text]").input_value() == ""
    expect(page.locator("#classify .examples button")).to_have_count(2)  # of no kind of text, and of nobody's data
    expect(page.get_by_role("tab")).to_have_text(["Classify", "Attention"])  # it has no other heads
    answer = ask(page, "Classify", "Classify", text="The invoice is wrong. " + "W" * 400)
    expect(answer.locator(".scores tr")).to_have_count(12)
    expect(answer.locator("mark").first).to_be_visible()


def test_entities_are_marked_in_the_text_and_listed(visit, small_tokenizer, tmp_path):
    save_tagger(small_tokenizer, tmp_path / "names", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], seed=2)
    text = "The \U0001f44d cat <b>sat</b> on\na mat while rain was falling."
    model = bertwright.load(tmp_path / "names")
    found = model.predict(text).entities
    assert len({one.label for one in found}) == 2
    with Server(make_app(model)) as client:
        page = visit(str(client.base_url))
        expect(page.locator("#labels li")).to_have_text(["LOC", "PER"])
        answer = ask(page, "Entities", "Find entities", text=text)
        marks = answer.locator("mark.entity")
        expect(marks).to_have_text([f"{one.text}{one.label}" for one in found])
        colours = marks.evaluate_all("marks => marks.map(mark => getComputedStyle(mark).backgroundColor)")
        assert len(set(zip(colours, [one.label for one in found], strict=True))) == len(set(colours)) == 2
        expect(answer.get_by_role("row")).to_have_count(len(found))
        shown = answer.locator(".text").evaluate(
            "text => { text.querySelectorAll('small').forEach(label => label.remove()); return text.textContent; }"
        )
        assert shown == text


def serve_small(tokenizer, folder, task, head, names, notes=()):
    """A small model at random for a task, and its server."""
    torch.manual_seed(0)
    made = shaken(TaskModel(new_encoder(SHAPE, tokenizer.vocab_size), head, names, task), 0.2)
    made.notes = dict(notes)
    save_model(made, tokenizer, folder, max_length=64)
    model = bertwright.load(folder)
    return model, Server(make_app(model))


def test_the_answer_to_a_question_is_marked_in_its_context(visit, small_tokenizer, tmp_path):
    context = "The \U0001f44d cat <sat> on\na mat while rain was falling over old roofs."
    model, server = serve_small(small_tokenizer, tmp_path / "m", "question-answering", SpanHead(48), ["start", "end"])
    found = model.predict({"question": "what was falling?", "context": context})
    with server as client:
        page = visit(str(client.base_url))
        answer = ask(page, "Answer", "Answer", question="what was falling?", context=context)
        expect(answer.locator("mark.answer")).to_have_text(found.text)
        assert answer.locator(".text").evaluate("text => text.textContent") == context
        page.get_by_role("button", name="What did the boat carry?").click()
        expect(answer.locator("mark.answer")).not_to_have_text(found.text)
        assert "coal" in answer.locator(".text").inner_text()


def test_choices_get_their_probabilities(visit, small_tokenizer, tmp_path):
    model, server = serve_small(
        small_tokenizer, tmp_path / "m", "multiple-choice", ChoiceHead(48, 0.1), ["0", "1", "2"]
    )
    found = model.predict({"context": "the cat sat on", "choices": ["a mat", "old roofs", "rain"]})
    with server as client:
        page = visit(str(client.base_url))
        answer = ask(page, "Choose", "Choose", context="the cat sat on", choices="a mat\n\n old roofs\nrain")
        expect(answer.locator(".prediction b")).to_have_text(found.text)
        expect(answer.get_by_role("rowheader")).to_have_text(["a mat", "old roofs", "rain"])


def test_pairs_get_the_probabilities_of_all_classes(visit, small_tokenizer, tmp_path):
    names = ["same", "other", "<b>"]
    model, server = serve_small(
        small_tokenizer, tmp_path / "m", "classification", SequenceHead(48, 3, 0.1), names, {"text_pair": True}
    )
    found = model.predict({"text": "the cat sat", "text_pair": "rain was falling"})
    with server as client:
        page = visit(str(client.base_url))
        expect(page.locator("#about")).to_have_text("Assigns one of 3 classes to a pair of texts.")
        answer = ask(page, "Predict", "Predict", text="the cat sat", text_pair="rain was falling")
        expect(answer.locator(".prediction b")).to_have_text(found.label)
        expect(answer.get_by_role("rowheader")).to_have_text(sorted(names, key=lambda name: -found.probabilities[name]))
        explained = explain(model, {"text": "the cat sat", "text_pair": "rain was falling"})
        expect(answer.locator("mark")).to_have_text([word.text for word in (*explained.words, *explained.words_pair)])
        expect(answer).to_contain_text(f"Green words raised the odds of {found.label}")


def from_another_tool(folder):
    """A model's folder without our notes, which say what it was trained for."""
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {k: v for k, v in config.items() if k not in ("finetuning_task", "text_pair")})
    return bertwright.load(folder)


def test_a_classifier_of_another_tool_takes_one_text_or_two(visit, small_tokenizer, tmp_path):
    names = ["same", "other", "none"]
    serve_small(small_tokenizer, tmp_path / "m", "classification", SequenceHead(48, 3, 0.1), names)
    widgets = "- text: the cat sat\n  text_pair: rain was falling\n- text: old roofs\n"
    (tmp_path / "m" / "README.md").write_text(f"---\nwidget:\n{widgets}---\n")
    model = from_another_tool(tmp_path / "m")
    assert [one["values"] for one in settings(model, False)["examples"]] == [
        ["the cat sat", "rain was falling"],
        ["old roofs"],
    ]
    with Server(make_app(model)) as client:
        page = visit(str(client.base_url))
        expect(page.locator("#about")).to_have_text("Assigns one of 3 classes to a text or a pair of texts.")
        bodies = []
        page.on("request", lambda sent: bodies.append(sent.post_data_json) if sent.method == "POST" else None)
        for title, row in (
            ("old roofs", {"text": "old roofs"}),
            ("the cat sat", {"text": "the cat sat", "text_pair": "rain was falling"}),
        ):
            page.get_by_role("button", name=title).click()
            answer = page.locator("#compare output")
            expect(answer.locator("mark").first).to_be_visible()
            expect(answer.locator(".prediction b")).to_have_text(model.predict(row).label)
            assert bodies == [{"rows": [row]}] * 2
            bodies.clear()


def test_an_example_with_a_second_text_is_not_cut_to_its_first(small_tokenizer, tmp_path):
    save_tagger(small_tokenizer, tmp_path / "m", ["O", "B-LOC", "I-LOC"])
    (tmp_path / "m" / "README.md").write_text("---\nwidget:\n- text: A.\n  text_pair: B.\n- text: C.\n---\n")
    shown = settings(bertwright.load(tmp_path / "m"), False)
    assert [one["values"] for one in shown["examples"]] == [["C."]]
    assert shown["facts"]["Reads"] == "64 tokens; a longer text in windows"


@pytest.mark.parametrize(
    ("tags", "form", "answers", "about"),
    [
        (["O", "PER", "LOC"], "token-classification", ["LOC", "PER"], "Finds entities"),
        (["NOUN", "DET", "VERB"], "tags", ["DET", "NOUN", "VERB"], "Assigns one of 3 tags to each word of a text."),
    ],
)
def test_tags_without_prefixes_are_named(small_tokenizer, tmp_path, tags, form, answers, about):
    save_tagger(small_tokenizer, tmp_path / "m", tags)
    shown = settings(bertwright.load(tmp_path / "m"), False)
    assert (shown["form"], shown["answers"]) == (form, answers)
    assert shown["about"].startswith(about)


def test_words_are_tagged_where_tags_are_no_entities(visit, small_tokenizer, tmp_path):
    save_tagger(small_tokenizer, tmp_path / "m", ["NOUN", "DET", "VERB"], seed=2)
    model = bertwright.load(tmp_path / "m")
    found = model.predict("The cat sat on a mat.")
    with Server(make_app(model)) as client:
        page = visit(str(client.base_url))
        answer = ask(page, "Tags", "Tag words", text="The cat sat on a mat.")
        expect(answer.locator(".prediction")).to_have_text(f"{len(found.tokens)} words")
        expect(answer.locator("mark.entity")).to_have_text(
            [f"{token}{tag}" for token, tag in zip(found.tokens, found.tags, strict=True)]
        )
        assert "ntit" not in page.locator("body").inner_text()


def test_the_page_is_used_with_the_keyboard_and_its_fields_have_names(page):
    page.get_by_role("tab", name="Classify").focus()
    for tab in ("Fill masks", "Attention", "Next sentence", "Classify", "Fill masks"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=tab)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="A text with one [MASK] or more")).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#fill output table").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Fill", exact=True)).to_be_focused()


def test_masks_are_filled_in_the_sentence(page):
    text = "The [MASK] was so bad that I left the [MASK]."
    answer = ask(page, "Fill masks", "Fill", text=text)
    expect(answer.locator("table")).to_have_count(2)
    expect(answer.locator("table").first.locator("tr")).to_have_count(6)
    first, second = bertwright.load("bundled").fill_mask(text, 6)
    expect(answer.locator(".text")).to_have_text(f"The {first[0].token} was so bad that I left the {second[0].token}.")
    answer.get_by_role("button", name=second[2].token, exact=True).last.click()
    expect(answer.locator(".text mark")).to_have_text([first[0].token, second[2].token])
    expect(answer.locator("[aria-pressed=true]")).to_have_text([first[0].token, second[2].token])


def test_a_mask_in_the_vocabulary_s_own_spelling_is_filled_in_the_sentence(page):
    page.evaluate("SETTINGS.mask = '<mask>'")
    page.route("**/fill-mask", lambda route: route.fulfill(json=[[[{"token": "film", "score": 0.5}]] * 2]))
    answer = ask(page, "Fill masks", "Fill", text="A <mask> is a [MASK].")
    expect(answer.locator(".text")).to_have_text("A film is a film.")


def test_the_rest_of_a_word_is_joined_to_it(page):
    page.route("**/fill-mask", lambda route: route.fulfill(json=[[[{"token": "##ers", "score": 0.5}]]]))
    expect(ask(page, "Fill masks", "Fill", text="The bak [MASK] worked.").locator(".text")).to_have_text(
        "The bakers worked."
    )


def test_all_heads_are_drawn_and_the_chosen_one_large(page):
    tokens, weights = bertwright.load("bundled").attention("Not a good film.", 64)
    answer = ask(page, "Attention", "Show", text="Not a good film.")
    heads = answer.get_by_role("radio")
    expect(heads).to_have_count(8)  # two layers of four
    cells = answer.locator(".map tbody td")
    expect(cells).to_have_count(len(tokens) ** 2)

    def shown():
        return [
            float(title.rpartition(": ")[2]) for title in cells.evaluate_all("cells => cells.map(cell => cell.title)")
        ]

    assert shown() == pytest.approx(weights[0, 0].ravel().tolist(), abs=2e-3)
    answer.get_by_role("radio", name="Layer 1, head 3").click()
    assert shown() == pytest.approx(weights[0, 2].ravel().tolist(), abs=2e-3)
    page.keyboard.press("ArrowDown")
    expect(answer.get_by_role("radio", name="Layer 2, head 3")).to_be_focused()
    expect(answer.get_by_role("radio", checked=True)).to_have_count(1)
    assert shown() == pytest.approx(weights[1, 2].ravel().tolist(), abs=2e-3)
    drawn = (
        heads.nth(6)
        .locator("canvas")
        .evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
    )
    assert drawn[3::4] == pytest.approx((255 * weights[1, 2].ravel() ** 0.5).tolist(), abs=4)


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
    expect(answer.locator("mark").first).to_have_text("boat")
    assert "the" not in {mark.lower() for mark in answer.locator("mark").all_inner_texts()}


def test_the_examples_of_a_search_find_the_texts_that_they_begin(visit, searching):
    page = visit(searching)
    click_examples(page, "Search", 2)
    expect(page.locator("section:visible .hits li").first).to_contain_text("The bakers worked")


def test_a_page_without_an_index_has_no_search(page):
    expect(page.get_by_role("tab")).to_have_text(["Classify", "Fill masks", "Attention", "Next sentence"])
    expect(page.locator("#search")).to_have_count(0)


SPOKEN = "It's $HOME's `best` \"film\",\nnot! \\ <b>\U0001f44d</b> {[MASK]}"
"""A text with what shells and JSON treat as their own."""


@pytest.mark.parametrize(
    ("tab", "button", "paths", "fields"),
    [
        ("Classify", "Classify", ["predict", "explain"], {"text": SPOKEN}),
        ("Fill masks", "Fill", ["fill-mask"], {"text": SPOKEN}),
        ("Next sentence", "Compare", ["next-sentence"], {"first": SPOKEN, "second": "It's late."}),
        ("Attention", "Show", ["attention"], {"text": SPOKEN}),
        ("Search", "Search", ["search"], {"text": SPOKEN}),
    ],
)
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_request_beside_an_answer_is_answered_alike_when_pasted(visit, searching, tab, button, paths, fields):
    page = visit(searching)
    bodies = posted(page)
    ask(page, tab, button, **fields)
    assert_answered_alike_when_pasted(page, bodies)
    assert [answer.url for answer in bodies] == [f"{searching.rstrip('/')}/{path}" for path in paths]


@pytest.mark.parametrize(
    ("form", "tab", "button", "fields"),
    [
        ("questions", "Answer", "Answer", {"question": "What's old?", "context": SPOKEN}),
        ("choices", "Choose", "Choose", {"context": SPOKEN, "choices": 'It\'s late.\n"No"'}),
        ("pairs", "Predict", "Predict", {"text": "rain was \"falling\" over 'old' roofs", "text_pair": "the cat sat"}),
    ],
)
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_a_request_with_rows_is_answered_alike_when_pasted(visit, small_tokenizer, tmp_path, form, tab, button, fields):
    with server_with(form, small_tokenizer, tmp_path / "model") as client:
        page = visit(str(client.base_url))
        bodies = posted(page)
        ask(page, tab, button, **fields)
        assert_answered_alike_when_pasted(page, bodies)
        assert "rows" in bodies[0].request.post_data_json


def posted(page):
    """The answers to what the page posts from now on, as they come."""
    bodies = []
    page.on("response", lambda answer: bodies.append(answer) if answer.request.method == "POST" else None)
    return bodies


def assert_answered_alike_when_pasted(page, bodies):
    """Each request that stands beside an answer, executed by a shell, has the same answer."""
    folded = page.locator("section:visible summary", has_text="The request as curl")
    folded.click(timeout=30_000)
    commands = page.locator("section:visible").get_by_role("region", name="as curl").all_inner_texts()
    for command, answer in zip(commands, bodies, strict=True):
        pasted = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
        assert answer.ok
        assert json.loads(pasted.stdout) == answer.json()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, searching, scheme):
    page = visit(searching)
    page.emulate_media(color_scheme=scheme)
    for tab, button, fields in (
        ("Classify", "Classify", {}),
        ("Fill masks", "Fill", {}),
        ("Attention", "Show", {}),
        ("Next sentence", "Compare", {}),
        ("Search", "Search", {"text": "When did the boat sink?"}),
        ("Fill masks", "Fill", {"text": "No mask."}),
    ):
        ask(page, tab, button, **fields)
        assert serious_when_answered(page) == []
    page.goto(f"{searching}/docs")
    expect(page.locator("section").first).to_be_visible()
    assert serious(page) == []
    page.evaluate("document.body.append(document.createElement('textarea'))")
    assert serious(page) == ["label"]  # a field without a name: the test can fail


def click_examples(page: Page, tab: str, count: int) -> None:
    """Click each example of a tab: its texts fill the fields, are what is asked, and have an answer."""
    page.get_by_role("tab", name=tab).click()
    panel = page.locator("section:visible")
    buttons = panel.locator(".examples button")
    expect(buttons).to_have_count(count)
    told = set()
    for button in buttons.all():
        with page.expect_request(lambda sent: sent.method == "POST") as asked:
            button.click()
        values = [value for field in panel.locator("textarea, input").all() if (value := field.input_value())]
        told.add(tuple(values))
        assert any(value.startswith(button.inner_text().rstrip("…")) for value in values)
        sent = json.dumps(asked.value.post_data_json)
        assert all(json.dumps(line)[1:-1] in sent for value in values for line in value.splitlines())
        answered = panel.locator("summary", has_text="The request as curl")
        expect(answered).to_be_visible(timeout=30_000)  # words are explained before
        expect(panel.locator("output").locator(".prediction, .text, .map").first).to_be_visible()
        expect(panel.get_by_role("alert")).to_have_count(0)
    assert len(told) == count


@pytest.mark.parametrize(("tab", "count"), [("Fill masks", 3), ("Attention", 2), ("Next sentence", 2)])
def test_each_example_of_the_bundled_model_is_answered(page, tab, count):
    click_examples(page, tab, count)


TASK_FORMS = "classes labels number vectors tags entities questions choices pairs other".split()


@pytest.mark.parametrize("form", TASK_FORMS)
def test_the_examples_of_a_model_without_a_card_are_answered(visit, small_tokenizer, tmp_path, form):
    with server_with(form, small_tokenizer, tmp_path / "model") as client:
        page = visit(str(client.base_url))
        click_examples(page, page.get_by_role("tab").first.inner_text(), 2)
        assert serious_when_answered(page) == []
        click_examples(page, "Attention", 2)


def test_of_the_bundled_model_s_pairs_the_one_that_follows_is_the_more_probable(page):
    page.get_by_role("tab", name="Next sentence").click()
    found = []
    for number in range(2):
        with page.expect_response("**/next-sentence"):
            page.locator("#pair .examples button").nth(number).click()
        expect(page.locator("#pair form[aria-busy=false]")).to_be_visible(timeout=30_000)
        said = page.locator("#pair .prediction").inner_text()
        found.append(float(re.search(r"follows: ([\d.]+) %", said)[1]))
    assert found[0] > 50 > found[1]
    assert "From 40 to 60 % counts as undecided" in page.locator("#pair").inner_text()


def test_an_example_that_is_clicked_before_the_last_answer_is_complete_is_answered(page):
    page.route("**/explain", lambda route: (page.wait_for_timeout(300), route.continue_()))
    panel = page.locator("section:visible")
    for label in ("positive", "negative"):
        page.get_by_role("button", name=f"a {label} review").click()
        expect(panel.locator(".prediction")).to_be_visible(timeout=30_000)
    text = panel.locator("[name=text]").input_value()
    expect(panel.locator("output .text")).to_have_text(text, timeout=30_000)
    expect(panel.locator(".prediction")).to_contain_text("negative")


FORMS = {
    "entities": ("Entities", "Find entities", {"text": "The cat sat on a mat while rain was falling."}),
    "questions": ("Answer", "Answer", {"question": "what was falling?", "context": "Rain was falling on a mat."}),
    "choices": ("Choose", "Choose", {"context": "the cat sat on", "choices": "a mat\nold roofs\nrain"}),
    "pairs": ("Predict", "Predict", {"text": "the cat sat", "text_pair": "rain was falling"}),
}
"""The forms of tasks on other things than single texts: tab, button, and what is filled in."""


def server_with(form, tokenizer, folder):
    """The server of a small model at random, which has the form."""
    tags = {"entities": ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], "tags": ["NOUN", "DET", "VERB"]}
    if form in tags:
        save_tagger(tokenizer, folder, tags[form], seed=2)
        return Server(make_app(bertwright.load(folder)))
    classes = ("classification", SequenceHead(48, 3, 0.1), ["same", "other", "none"])
    if form == "other":
        serve_small(tokenizer, folder, *classes)
        return Server(make_app(from_another_tool(folder)))
    given = {
        "classes": classes,
        "labels": ("multi-label", *classes[1:]),
        "vectors": ("embedding", EmbeddingHead(Pooling("mean")), ["similarity"]),
        "number": ("regression", SequenceHead(48, 1, 0.1), ["stars"]),
        "questions": ("question-answering", SpanHead(48), ["start", "end"]),
        "choices": ("multiple-choice", ChoiceHead(48, 0.1), ["0", "1", "2"]),
        "pairs": (*classes, {"text_pair": True}),
    }
    return serve_small(tokenizer, folder, *given[form])[1]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_axe_finds_nothing_serious_in_the_form_of_a_task(visit, small_tokenizer, tmp_path, form):
    tab, button, fields = FORMS[form]
    with server_with(form, small_tokenizer, tmp_path / "model") as client:
        page = visit(str(client.base_url))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            ask(page, tab, button, **fields)
            assert serious_when_answered(page) == []


PARTS = {
    "results.json": "results.json",
    "recipe.yaml": "recipe.yaml",
    "environment.json": "environment.json",
    "data_report.json": "prepare/data_report.json",
    "pretrain.jsonl": "pretrain/metrics.jsonl",
    "finetune.jsonl": "finetune/seed-0/metrics.jsonl",
}
"""The files of results/imdb-mini, and where they stand in the folder of a run."""

WRONG = {
    "text": "A film that takes its time, and yours. " * 30,
    "label": "negative",
    "prediction": "positive",
    "score": 0.9,
}
EXAMPLES = {
    "filled_masks": [
        {"text": "The [MASK] was long.", "predictions": [{"token": "film", "score": 0.4}], "answer": answer}
        for answer in ("film", "boat")
    ],
    "next_sentence": [{"a": "The boat was old.", "b": "It sank.", "is_next": True, "probability_next": 0.9}],
    "classified": [WRONG | {"label": "positive"}],
    "mistakes": [WRONG],
}


@pytest.mark.slow
def test_axe_finds_nothing_serious_in_reports(visit, tmp_path):
    for name, place in PARTS.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "results" / "imdb-mini" / name, tmp_path / place)
    shutil.copytree(ROOT / "results" / "imdb-mini" / "predictions", tmp_path / "evaluate" / "predictions")
    write_json(tmp_path / "evaluate" / "examples.json", EXAMPLES)
    write_report(tmp_path)
    entries = {name: {"imdb": Entry(read_json(tmp_path / "results.json"), tmp_path)} for name in ("bundled", "random")}
    write_suite(Suite(entries, notes={"random": {"rte": "data/rte does not exist"}}), tmp_path)
    for report in ("report.html", "suite.html"):
        page = visit(tmp_path.as_uri(), f"/{report}")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
            assert serious(page) == []


def serious_when_answered(page: Page):
    """`serious` when the answer to what was asked is there, with all that is folded open."""
    expect(page.locator("section:visible summary", has_text="as curl")).to_be_visible()
    page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
    return serious(page)


def serious(page: Page):
    """The rules of axe that a page breaks badly enough to shut users out."""
    found = Axe().run(page).response["violations"]
    return [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")]


def test_the_examples_of_a_model_card_are_those_of_the_page(tmp_path):
    folder = tmp_path / "tickets"
    shutil.copytree(bertwright.load("bundled").classifier_folder, folder)
    model = bertwright.load(folder)
    assert settings(model, False)["examples"] == []
    widgets = "- text: My <b>bill</b> is wrong.\n  example_title: A bill\n- text: Hi.\n- src: a.png\n"
    (folder / "README.md").write_text(f"---\nlicense: mit\nwidget:\n{widgets}---\n")
    wanted = [{"title": "A bill", "values": ["My <b>bill</b> is wrong."]}, {"title": "Hi.", "values": ["Hi."]}]
    assert settings(model, False)["examples"] == wanted
    for broken in ("---\nwidget: [\n---\n", "---\nwidget: 3\n---\n", "no head", "---\n- 1\n---\n"):
        (folder / "README.md").write_text(broken)
        assert settings(model, False)["examples"] == []


def test_what_a_model_is_called_never_becomes_markup(visit, tmp_path):
    folder = tmp_path / "<b>own"
    shutil.copytree(bertwright.load("bundled").classifier_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    named = {"0": "</script><script>document.title = 'taken'</script>", "1": "<b>"}
    names = {"id2label": named, "label2id": {label: int(number) for number, label in named.items()}}
    (folder / "config.json").write_text(json.dumps({**config, **names}))
    with Server(make_app(bertwright.load(folder))) as client:
        page = visit(str(client.base_url))
        expect(page.locator("#labels li")).to_have_text(list(named.values()))
        assert page.title() == "Bertwright: <b>own"


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
