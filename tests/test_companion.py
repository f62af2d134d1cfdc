"""The companion: every figure has a source, every section a summary, labels can be read and pages are full.

Two figures for one thing cannot differ if one file holds it. So the sections of docs/companion type no figure of ours:
`run.typ` reads results/, and `noted` names the page of docs/experiments that holds a figure without raw output. Figures
of the paper (`paper`), of others (`published`) and constants (`given`) are typed, and marked as such.
"""

import io
import json
import re
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import modern_shape
from bertwright.evaluate.comparison import paired_difference, saved_predictions
from bertwright.files import read_json

ROOT = Path(__file__).resolve().parents[1]
COMPANION = ROOT / "docs" / "companion"
SECTIONS = sorted((COMPANION / "sections").glob("*.typ"))
SOURCES = [*SECTIONS, *COMPANION.glob("*.typ")]

MARK = r"\b(?:paper|published|noted|given)(?=[(\[])"
# Lengths, and numbers that are names: of sections, data sets and the masking rule.
NOT_A_FIGURE = r"\d+\.\d+(?=(?:em|pt|cm)\b)|\bsections?\s+[\dA-C]\.\d|\bSQuAD\s+\d\.\d|\bCoNLL-\d+|80.10.10\b"
DECIMAL = r"(?<![\w.])\d+\.\d+(?![\d.]*\w)"
OURS = r"#(?:measured|summary)(?=[\[(])|\b(?:caption: (?=\[)|ruled(?=\())"
WHOLE = r"(?<![\w.,@])(?:\d{1,3}(?:,\d{3})+|\d+(?= ?%)|\d{2,})(?![\w.]*\d|\^)"


def closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place + 1
    raise AssertionError(f"a bracket is not closed: {text[start : start + 60]!r}")


def blanked(text: str) -> str:
    """A text of which raw parts and comments, which may hold single brackets, are blank."""
    return re.sub(r"`[^`]*`|//[^\n]*", lambda found: re.sub(r"\S", " ", found[0]), text)


def calls(text: str, name: str) -> Iterator[tuple[int, int]]:
    """Where the calls of a function begin and end, their blocks of content included."""
    for found in re.finditer(name, text):
        end = closing(text, found.end())
        while text[end : end + 1] == "[":
            end = closing(text, end)
        yield found.start(), end


def typed_figures(source: str) -> list[str]:
    """Decimal numbers without a mark; in our notes, tables and captions also percentages and whole numbers from 10."""
    text = blanked(source)
    for name in (MARK, r"\b(?:run|calc)\.[\w.-]+(?=\()"):
        for start, end in reversed(list(calls(text, name))):
            text = text[:start] + re.sub(r"\S", " ", text[start:end]) + text[end:]
    text = re.sub(NOT_A_FIGURE, lambda found: re.sub(r"\S", " ", found[0]), text, flags=re.IGNORECASE)
    figures = {(found.start(), found[0]) for found in re.finditer(DECIMAL, text)}
    for start, end in calls(text, OURS):
        figures |= {(start + found.start(), found[0]) for found in re.finditer(WHOLE, text[start:end])}
    return [f"line {text.count(chr(10), 0, place) + 1}: {figure}" for place, figure in sorted(figures)]


@pytest.mark.parametrize("path", SECTIONS, ids=lambda path: path.stem)
def test_no_figure_is_typed_without_its_source(path):
    assert typed_figures(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("an F1 of 0.9185", ["line 1: 0.9185"]),
        ("text\n[row], [84.2 %],", ["line 2: 84.2"]),
        ("#measured[right in 57 % of pairs, and in 5 %]", ["line 1: 57", "line 1: 5"]),
        ("#measured[of 6,000 reviews, 12 seeds]", ["line 1: 6,000", "line 1: 12"]),
        ("#measured[two seeds, nDCG@10, $10^(-5)$, #run.fixed(1e6 * 256, 12)]", []),
        ("#claim[15 % of the tokens]", []),
        ("#figure(ruled(columns: 2, [rows], [20 %]), caption: [On 488 reviews.])", ["line 1: 20", "line 1: 488"]),
        ("#measured[#ruled([12])], #ruled(paper(([12],)), [CoNLL-2003, 80/10/10])", ["line 1: 12"]),
        ("#paper[86.7], #published(0.2) and then 86.8", ["line 1: 86.8"]),
        ('#noted("initialization.md")[84.2 % (of 6,000)] or 79.6', ["line 1: 79.6"]),
        ("#measured[#given[95 %] interval (section 3.1), SQuAD 1.1, `0.5`]", []),
        ("#text(size: 0.85em)[small] // 0.5", []),
        ("$beta = #paper(0.9), gamma = 0.99$", ["line 1: 0.99"]),
    ],
)
def test_a_typed_figure_is_found(text, found):
    assert typed_figures(text) == found


NOTE = r"#(?:measured|summary|later|claim|why|incode)(?=[\[(])"
NOTED = r'noted\(\s*"(?P<page>[^"]+)"(?:,\s*under: "(?P<heading>[^"]+)")?(?P<figures>.*)'
NUMBER = r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e-\d)?(?![\w.]*\d)"


def noted_figures(source: str) -> Iterator[tuple[str, str | None, str]]:
    """Page, heading and number of each figure that a page of docs/experiments is named for."""
    text = blanked(source)
    notes = list(calls(text, NOTE))
    named = list(re.finditer(r'experiment\(\s*"([^"]+)",\s*"([^"]+)"', text))
    for start, end in calls(text, r"\bnoted(?=\()"):
        page, heading, figures = re.fullmatch(NOTED, text[start:end], re.DOTALL).groups()
        inside = [note for note in notes if note[0] < start < note[1]]
        near = [one for one in named if one[1] == page and any(a < one.start() < b for a, b in inside)]
        if heading is None and near:
            heading = min(near, key=lambda one: abs(one.start() - start))[2]
        yield from ((page, heading, number) for number in re.findall(NUMBER, figures))


def numbers_of_sections(page: str) -> dict[str, set[str]]:
    """The numbers under each heading of a page of docs/experiments."""
    parts = re.split(r"^#+ (.+)$", (ROOT / "docs" / "experiments" / page).read_text(), flags=re.MULTILINE)
    return {heading: set(re.findall(NUMBER, text)) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_noted_figures_stand_under_their_heading():
    noted = {one for path in SOURCES if path.name != "style.typ" for one in noted_figures(path.read_text())}
    assert len(noted) > 40
    there = {page: numbers_of_sections(page) for page, _, _ in noted}
    assert [one for one in sorted(noted, key=str) if one[2] not in there[one[0]].get(one[1], ())] == []


def test_a_noted_figure_belongs_to_the_heading_that_is_named_or_near():
    source = """#measured[#noted("a.md")[7 of 8], #experiment("b.md", "Near") #experiment("a.md", "First"),
        #noted("a.md", under: "Named", ([0.5],)) #experiment("a.md", "Second")] #noted("a.md")[9]"""
    assert list(noted_figures(source)) == [
        *(("a.md", "First", number) for number in "78"),
        ("a.md", "Named", "0.5"),
        ("a.md", None, "9"),
    ]


def test_each_section_opens_with_claim_measurement_and_code():
    opened = 0
    for path in SECTIONS:
        text = path.read_text()
        for heading in re.finditer(r"^= .+$", text, re.MULTILINE):
            summary = re.compile(r"\n(?:\n|#let [^\n]*\n)+#summary(?=\()").match(text, heading.end())
            assert summary, heading[0]
            parts = re.findall(r"^  (\w+): \[", text[summary.end() : closing(text, summary.end())], re.MULTILINE)
            assert parts == ["claim", "measured", "code"], heading[0]
            opened += 1
    assert opened == 10  # sections 1 to 6 and appendices A to D


def test_no_semicolon_of_a_sentence_ends_an_expression():
    # Typst takes `;` after `#paper[0.1]` for the end of the expression, and prints nothing.
    for path in SECTIONS:
        text = blanked(path.read_text())
        lost = [text[start:end] for start, end in calls(text, r"#[a-z][\w.-]*(?=[(\[])") if text[end : end + 1] == ";"]
        assert lost == [], path.name


def test_no_text_is_smaller_than_seven_points():
    sizes = {float(size) for path in SOURCES for size in re.findall(r"size: ([\d.]+)pt", path.read_text())}
    assert sizes
    assert min(sizes) >= 7
    # Indices are set at seven tenths.
    assert 0.7 * float(re.search(r"#let indexed = ([\d.]+)pt", (COMPANION / "figures.typ").read_text())[1]) >= 7


@pytest.mark.slow
def test_the_lead_of_windows_is_that_of_the_saved_predictions():
    folder = ROOT / "results" / "imdb-mini-windows"
    saved = saved_predictions(folder / "predictions")
    seeds = [saved["bert-seed-0"], saved["bert-seed-1"]]
    found = paired_difference(read_json(folder / "results.json"), saved, seeds, saved["nb_logistic_regression"])
    assert read_json(folder / "lead.json") == pytest.approx(found)


@pytest.fixture(scope="module")
def pages() -> list[np.ndarray]:
    """The text's area of each page, true where there is ink, (rows, columns)."""
    compiler = runpy.run_path(str(COMPANION / "build.py"))["make_compiler"]()
    images = [Image.open(io.BytesIO(page)).convert("L") for page in compiler.compile(format="png", ppi=24)]
    return [np.array(image)[int(0.095 * image.height) : int(0.912 * image.height)] < 200 for image in images]


def typesetter(pdf: bytes) -> bytes:
    """Name and version of the program that made a PDF."""
    return re.search(rb"/Creator\(([^)]*)\)", pdf)[1]


@pytest.mark.slow
def test_the_committed_pdf_is_that_of_its_sources_and_results(tmp_path):
    committed = (ROOT / "BERT.pdf").read_bytes()
    compiler = runpy.run_path(str(COMPANION / "build.py"))["make_compiler"]()
    compiler.compile(output=tmp_path / "BERT.pdf", format="pdf", timestamp=0)
    fresh = (tmp_path / "BERT.pdf").read_bytes()
    if typesetter(fresh) != typesetter(committed):
        pytest.skip(f"{typesetter(committed)} made BERT.pdf, and {typesetter(fresh)} makes other bytes")
    assert fresh == committed, "BERT.pdf is older than its sources or results/: run `make companion`, commit BERT.pdf"


@pytest.mark.slow
def test_no_page_is_half_empty(pages):
    assert len(pages) > 25
    for number, page in enumerate(pages[:-1], 1):  # the last one ends with the references
        inked = np.flatnonzero(page.any(axis=1))
        blank = np.diff([0, *inked, len(page)]).max() / len(page)
        assert blank < 0.25, f"page {number}: {blank:.0%} of its height is blank"


def with_later_results(root: Path) -> Path:
    """A repository in which what is measured late has results: made-up ones of few tasks and systems."""
    shutil.copytree(COMPANION, root / "docs" / "companion")
    (root / "benchmarks").symlink_to(ROOT / "benchmarks")
    for file in (ROOT / "results").rglob("*.*"):
        if file.is_file():  # no folder is linked, since files of it are replaced below
            link = root / file.relative_to(ROOT)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    one = {"metric": "f1", "mean": 0.5, "sd": 0.1, "low": 0.4, "seeds": [0, 1], "baseline": 0.3}
    f1 = {"f1": 0.8, "sd": 0.01, "draws": 2}
    low, high = [{"f1": 0.7}] * 3, [{"f1": 0.8}] * 3
    shape = [{"seed": 0, "mlm_loss": 5.0, "mlm_accuracy": 0.2}, {"seed": 1, "mlm_loss": 5.1, "mlm_accuracy": 0.21}]
    pair = {"task": "squad", "metric": "f1", "first": "bundled", "second": "random", "difference": 0.1, "low": 0.05}
    later = {
        "suite/results.json": {
            "random": {"squad": one},
            "bundled": {"squad": one, "squad2": one, "mnli": one, "rte": one | {"baseline": None}},
        },
        "suite/differences.json": [pair],
        "continued/results.json": {"100": {"encoder": f1, "continued": f1, "continued, new-words": f1}, "500": {}},
        "continued/draws.json": {
            "settings": {"test_texts": 6_000},
            "draws": {"100": {"encoder": low, "continued": high}, "500": {"encoder": high[:2], "continued": low}},
        },
        "continued/ablation/results.json": {"500": {"continued": f1, "continued, long-warmup": f1 | {"draws": 1}}},
        "continued/ablation/draws.json": {
            "settings": {"test_texts": 6_000, "minutes": 15.0},
            "pretraining": {name: {"heldout": {"mlm_loss": 4.8}} for name in ("continued", "continued, causal-first")},
            "draws": {"500": {"continued": low, "continued, long-warmup": high, "continued, lower-rate": high[:1]}},
        },
        "modern/results.json": {
            "recipe": {"pretrain": {"max_steps": 300, "batch_tokens": 18_432, "phases": [{"sequence_length": 128}]}},
            "rows": dict.fromkeys(modern_shape.ROWS, shape),
        },
    }
    for file, content in later.items():
        target = root / "results" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_text(json.dumps(content))
    return root


@pytest.mark.slow
def test_tables_of_what_is_measured_late_appear_with_their_files(tmp_path):
    compiler = runpy.run_path(str(COMPANION / "build.py"))["make_compiler"](with_later_results(tmp_path))
    for label in ("suite", "continued", "continued-ablation", "embeddings", "shapes"):
        assert len(json.loads(compiler.query(f"<{label}>"))) == 1


@pytest.mark.slow
def test_shapes_are_compared_once_every_row_has_every_seed(tmp_path):
    root = with_later_results(tmp_path)
    target = root / "results" / "modern" / "results.json"
    found = json.loads(target.read_text())
    found["rows"]["gated units"] = found["rows"]["gated units"][:1]
    target.write_text(json.dumps(found))
    compiler = runpy.run_path(str(COMPANION / "build.py"))["make_compiler"](root)
    assert json.loads(compiler.query("<shapes>")) == []
