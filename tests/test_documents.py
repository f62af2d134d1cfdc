"""What README and docs point at is there."""

import ast
import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import httpx2
import pytest

import ablation
import few_labels
import finetune_parity
import suite_tables
from bertwright.cli import main
from bertwright.evaluate.report import SYSTEM_NAMES
from bertwright.files import read_json
from bertwright.models.checkpoints import BUNDLED
from bertwright.recipe_file import load_recipe
from bertwright.tasks.initial import unseen_positions
from conftest import ROOT


def test_the_tests_that_the_conformance_table_names_are_there():
    table = (ROOT / "tests" / "README.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", table)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


EXPERIMENTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/experiments/*.md"))


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "results/README.md",
        "CONTRIBUTING.md",
        "docs/decisions.md",
        "docs/performance.md",
        "sample/README.md",
        *EXPERIMENTS,
    ],
)
def test_files_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text()
    homes = (ROOT, ROOT / "src" / "bertwright", ROOT / "recipes", (ROOT / document).parent)
    # Not the output of a run, and not patterns.
    named = re.findall(r"[\w./-]+/[\w./-]*\.(?:py|md|yaml|toml|txt)\b", text)
    named = [name for name in named if not name.startswith(("/", "runs/", "recipes/mine", "recipes/tickets"))]
    for name in named:
        assert any((home / name).exists() for home in homes), f"{document} names {name}"


def test_every_module_of_the_package_stands_in_the_contributors_map():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = text.partition("src/bertwright/\n")[2].partition("```")[0]
    package = ROOT / "src" / "bertwright"
    modules = {str(path.relative_to(package)) for path in package.rglob("[!_]*.py")}
    assert modules == set(re.findall(r"^  (\S+\.py)", shown, re.MULTILINE))


def test_the_first_tables_say_what_the_results_say():
    shown = (
        (ROOT / "results" / "README.md")
        .read_text()
        .partition("<!-- results:start -->")[2]
        .partition("<!-- results:end -->")[0]
    )
    path = ROOT / "results" / "imdb-mini" / "results.json"
    if not path.exists():
        pytest.skip("no run of recipes/imdb-mini.yaml stands in results/ yet, and so the table is empty")
    results = read_json(path)
    rows = [
        f"| {name} | {_figures(score)} |"
        for system, score in results["scores"].items()
        for name in (SYSTEM_NAMES[system],)
    ]
    assert [line for line in shown.splitlines() if line in rows] == sorted(
        rows, key=lambda row: row.split("|")[2], reverse=True
    )
    for run in ("imdb-mini-windows", "bert-mini-original"):
        assert _figures(read_json(ROOT / "results" / run / "results.json")["scores"]["bert"]) in shown, run
    windows = read_json(ROOT / "results" / "imdb-mini-windows" / "results.json")["scores"]["bert"]
    continued = read_json(ROOT / "results" / "imdb-continued" / "results.json")["scores"]["bert"]
    first = [
        _figures(score).rpartition(" | ")[0]
        for score in (windows, continued, results["scores"]["nb_logistic_regression"], results["scores"]["naive_bayes"])
    ]
    readme = (ROOT / "README.md").read_text()
    assert [figures for figures in first if f"| {figures} |" in readme] == first
    assert len(readme.splitlines()) <= 120


def _figures(score: dict[str, float]) -> str:
    """A system's cells in the tables."""
    return f"{score['f1']:.4f} | {score['f1_low']:.4f} to {score['f1_high']:.4f} | {score['accuracy']:.4f}"


def test_the_studies_tables_say_what_was_measured():
    few = read_json(ROOT / "results" / "few-labels" / "few-labels.json")
    rows = read_json(ROOT / "results" / "ablation" / "ablation.json")["rows"]
    tables = {"few-labels": few_labels.table(few["f1"]), "ablation": ablation.table(rows)}
    for study, table in tables.items():
        assert table in (ROOT / "results" / study / "README.md").read_text(), study


def test_the_table_of_whole_fine_tunings_says_what_was_measured():
    found = read_json(ROOT / "results" / "speed" / "finetune-parity.json")
    tasks = {task: found[task] for task in finetune_parity.METRICS}
    page = (ROOT / "docs" / "performance.md").read_text()
    assert finetune_parity.table(tasks) in page
    assert {len(task["by_seed"]["transformers_bf16"]) for task in tasks.values()} == {1}
    assert 'those of "Trainer, bf16" of one' in page


def test_the_tables_of_retrieval_say_what_was_measured():
    found, details = (read_json(ROOT / "results" / "embeddings" / f"{name}.json") for name in ("results", "details"))
    page = (ROOT / "results" / "embeddings" / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    by_score = sorted(found, key=lambda name: -found[name]["ndcg_10"])
    assert len(rows) == len(found) == 10
    for name, row in zip(by_score, rows, strict=True):
        figures = [f"{found[name][key]:.3f}" for key in ("ndcg_10", "recall_1", "recall_10")]
        assert row[1:4] == figures, name
        assert ("BM25" in row[0]) == ("bm25" in name)
        if name != "bm25":
            above = details["above_bm25"][name]["ndcg_10"]
            assert row[4] == f"{above['mean']:+.3f} ({above['low']:+.3f} to {above['high']:+.3f})"
    guide = (ROOT / "docs" / "guide" / "search.md").read_text()
    for name in ("all-MiniLM-L6-v2", "trained", "bundled", "random"):
        own, both = (found[key]["ndcg_10"] for key in (name, f"{name}+bm25"))
        assert f" | {own:.3f} | {both:.3f} |" in guide


def test_the_suite_s_tables_say_what_was_measured():
    suite = read_json(ROOT / "results" / "suite" / "results.json")
    tasks = ("cola", "sst2", "mrpc", "stsb", "rte", "conll2003", "squad", "commonsenseqa")
    encoders = ("random", "bundled", "all-MiniLM-L6-v2")
    baselines = [f"{100 * suite['bundled'][task]['baseline']:.1f}" for task in tasks]
    means = [[f"{100 * suite[encoder][task]['mean']:.1f}" for task in tasks] for encoder in encoders]
    assert _numbers(ROOT / "README.md", "| encoder | CoLA") == [baselines, *means]
    assert f"| best baseline | {baselines[0]} |" in (ROOT / "README.md").read_text()  # of most tasks no n-gram model
    spreads = [
        [
            baseline,
            *(f"{100 * suite[name][task]['mean']:.1f} ± {100 * suite[name][task]['sd']:.1f}" for name in encoders),
        ]
        for task, baseline in zip(tasks, baselines, strict=True)
    ]
    own = ROOT / "results" / "suite" / "README.md"
    assert [row[1:] for row in _numbers(own, "| task | metric")] == spreads
    pairs = read_json(ROOT / "results" / "suite" / "differences.json")
    assert all(table in own.read_text() for table in suite_tables.tables(suite, pairs))
    for task, row in zip(tasks, _numbers(own, "| task | bundled minus random"), strict=True):
        for cell, pair in zip(row, (("bundled", "random"), ("all-MiniLM-L6-v2", "bundled")), strict=True):
            (found,) = (one for one in pairs if one["task"] == task and {one["first"], one["second"]} == set(pair))
            sign = 100 if found["first"] == pair[0] else -100
            low, high = sorted((sign * found["low"], sign * found["high"]))
            expected = [sign * found["difference"], low, high]
            shown = [float(number) for number in re.findall(r"[+-]?\d+\.\d", cell)]
            assert shown == pytest.approx(expected, abs=0.05 + 1e-9), (task, pair)


def _numbers(path: Path, header: str) -> list[list[str]]:
    """The cells of a table below a header line, without its first column."""
    after = path.read_text().partition(f"\n{header}")[2].splitlines()[2:]
    rows = [line.strip("|").split("|")[1:] for line in itertools.takewhile(lambda line: line.startswith("|"), after)]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("document", ["README.md", "docs/guide/adapt.md"])
def test_the_recipe_of_a_document_loads_and_suits_what_it_trains(document, tmp_path):
    text = (ROOT / document).read_text()
    (shown,) = re.findall(r"^```yaml\n(name: .*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(shown)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert unseen_positions(recipe) is None
    if recipe.pretrain.encoder == "bundled":  # which Muon has trained: AdamW's default rate is that of BERT-base
        assert recipe.pretrain.optimizer == load_recipe("demo").pretrain.optimizer


@pytest.mark.parametrize("guide", ["vectors", "use"])
def test_the_layers_that_a_guide_asks_for_are_there_in_the_bundled_encoder(guide):
    asked = re.findall(r"layers[ =](\d+)", (ROOT / "docs" / "guide" / f"{guide}.md").read_text())
    there = read_json(BUNDLED / "encoder" / "config.json")["num_hidden_layers"]
    assert asked
    assert all(1 <= int(number) <= there for number in asked)


GUIDES = ["scale.md", *sorted(f"guide/{path.name}" for path in ROOT.glob("docs/guide/*.md"))]


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_opens_with_a_command_and_its_output(guide):
    lines = (ROOT / "docs" / guide).read_text().splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    assert [lines[number] for number in fences[:4]] == ["```sh", "```", "```", "```"]
    begin, end, output, last = fences[:4]
    assert begin < 10
    assert output - end < 6
    assert end - begin > 1
    assert last - output > 1
    assert not any(line.startswith("## ") for line in lines[:last])


EXPERIMENTS = {path.name: path.read_text() for path in ROOT.glob("docs/experiments/*.md") if path.name != "index.md"}
STUDIES = [
    pytest.param(part, id=f"{page}: {part.partition(chr(10))[0]}")
    for page, text in sorted(EXPERIMENTS.items())
    for part in ([text] if page == "bidirectional.md" else text.split("\n## ")[1:])
]
"""The sections of the experiments' pages; one page is a single study."""


@pytest.mark.parametrize("study", STUDIES)
def test_an_experiment_has_question_set_up_table_and_answer(study):
    places = [study.find(part) for part in ("**Question.**", "**Set-up.**", "\n|---|", "**Answer.**")]
    assert -1 not in places
    assert places == sorted(places)


def _defined_in(path: Path) -> set[str]:
    """The classes, functions and constants of a module, and those inside a class as Class.name."""

    def names(body: list[ast.stmt], prefix: str) -> set[str]:
        found = set()
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                found |= names(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {prefix + part.id for t in targets for part in ast.walk(t) if isinstance(part, ast.Name)}
        return found

    return names(ast.parse(path.read_text()).body, "")


def _stale_pointers(text: str) -> list[str]:
    """Pointers of the companion, `code("file", "name")`, whose file is missing or does not define the name."""
    stale = []
    for file, name in re.findall(r'code\(\s*"([^"]+)"(?:\s*,\s*"([^"]+)")?\s*\)', text):
        path = next((home / file for home in (ROOT / "src" / "bertwright", ROOT) if (home / file).is_file()), None)
        if path is None or (name and name not in _defined_in(path)):
            stale.append(f"{file}::{name}")
    return stale


COMPANION = sorted((ROOT / "docs" / "companion").rglob("*.typ"))


@pytest.mark.slow
def test_every_pointer_of_the_companion_leads_to_the_code():
    texts = [path.read_text() for path in COMPANION]
    assert sum(len(re.findall(r'code\(\s*"', text)) for text in texts) > 40
    assert [stale for text in texts for stale in _stale_pointers(text)] == []


@pytest.mark.parametrize(
    "pointer", ['"models/bert.py", "Gone"', '"models/gone.py", "Bert"', '"models/bert.py", "Bert.gone"']
)
def test_a_stale_pointer_is_seen(pointer):
    assert len(_stale_pointers(f'#code({pointer}) and #code("models/bert.py",\n  "Bert.forward")')) == 1


def test_sections_of_the_decisions_that_the_companion_names_are_there():
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "decisions.md").read_text(), re.MULTILINE)
    named = {name for path in COMPANION for name in re.findall(r'decided\("([^"]+)"\)', path.read_text())}
    assert named
    assert named <= set(headings)


def test_experiments_that_the_companion_names_are_there():
    named = [
        pair for path in COMPANION for pair in re.findall(r'experiment\(\s*"([^"]+)",\s*"([^"]+)"', path.read_text())
    ]
    assert len(named) > 5
    for page, heading in named:
        text = (ROOT / "docs" / "experiments" / page).read_text()
        assert re.search(rf"^## {re.escape(heading)}$", text, re.MULTILINE), f"{page}: {heading}"


def test_every_word_of_the_glossary_lives_where_it_says():
    package = ROOT / "src" / "bertwright"
    everything = "\n".join(path.read_text() for path in package.rglob("*.py"))
    rows = [line.split("|") for line in (ROOT / "docs" / "glossary.md").read_text().splitlines()]
    pointers = [row[-2] for row in rows if len(row) > 4 and "`" in row[-2]]
    assert len(pointers) > 20
    for pointer in pointers:
        named = re.findall(r"`([^`]+)`", pointer)
        files = [name for name in named if name.endswith(".py")]
        text = "".join((package / file).read_text() for file in files) or everything
        for word in ".".join(name for name in named if name not in files).split("."):
            assert re.search(rf"\b{word}\b", text), f"the glossary says{pointer}"


def test_every_module_stands_in_the_site_s_reference():
    package = ROOT / "src"
    modules = {".".join(path.relative_to(package).with_suffix("").parts) for path in package.rglob("[!_]*.py")}
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    shown = re.findall(r"automodule:: ([\w.]+)", pages)
    assert sorted(shown) == sorted(modules | {"bertwright"})


def test_the_table_of_options_has_every_option_of_a_recipe_with_a_meaning():
    spec = spec_from_file_location("options_table", ROOT / "docs" / "options_table.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.table()
    assert re.findall(r"^## (?:`(.+)`|Top level)$", table, re.MULTILINE) == [
        "",
        "data.NAME",
        "prepare",
        "pretrain",
        "pretrain.masking",
        "pretrain.phases[]",
        "pretrain.optimizer",
        "finetune",
        "finetune.embedding",
        "finetune.optimizer",
        "evaluate",
        "tokenizer",
        "model",
        "system",
    ]
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| .* \| (.*) \| (.+) \|$", table, re.MULTILINE)
    names = [
        f"{place}.{field.name}".lstrip(".") for place, section, _ in module.sections() for field in fields(section)
    ]
    assert [row[0] for row in rows] == names
    assert all(len(meaning) > 5 for _, _, meaning in rows)
    defaults, meanings = ({row[0]: row[place] for row in rows} for place in (1, 2))
    assert (defaults["pretrain.batch_tokens"], defaults["pretrain.phases[].batch_tokens"]) == ("`32768`", "none")
    # Open until the recipe knows what it trains, so that the meaning has the numbers.
    assert all("1e-4" in meanings[f"{stage}.optimizer.learning_rate"] for stage in ("pretrain", "finetune"))
    assert module.page() == module.PAGE.read_text(encoding="utf-8"), "run docs/options_table.py"


SKILL = re.findall(r"^bertwright (.+)$", (ROOT / "SKILL.md").read_text(), re.MULTILINE)


def test_the_skill_has_ten_commands_and_fits_a_page():
    assert len({command.split()[0] for command in SKILL}) == 10
    assert len((ROOT / "SKILL.md").read_text().splitlines()) <= 60


SHORTENED = {"run": "--pretrain.max_minutes 0.05 --finetune.epochs 1 --finetune.seeds [0]", "serve": "--port 0"}
"""Options that are added in the test, so that training takes seconds and the port is a free one."""


@pytest.mark.slow
@pytest.mark.parametrize("command", SKILL, ids=lambda command: command.split()[0])
def test_commands_of_the_skill_run(command, tmp_path, monkeypatch):
    (tmp_path / "sample").symlink_to(ROOT / "sample")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(f"{command} {SHORTENED.get(command.split()[0], '')}")
    if words[0] != "serve":
        assert main(words) == 0
        return
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    with subprocess.Popen([sys.executable, "-m", "bertwright", *words], stdout=subprocess.PIPE) as server:
        try:
            address = re.search(r"http://127.0.0.1:\d+", server.stdout.readline().decode())[0]
            assert httpx2.get(f"{address}/health").status_code == 200
        finally:
            server.terminate()
    assert server.returncode == 0
