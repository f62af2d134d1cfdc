"""Documents, messages and names use the standard words of the field.

The test checks documents, the companion, the lesson, recipes, templates, the command line's help, and the strings,
comments and names of the package. A failure names the line and what to write instead. The raw output of runs is not
checked. Words that are banned in one sense only, such as "it may" in place of a noun, are left to the reader.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BANNED = {
    r"judg\w*|misjudg\w*": "classify, predict, evaluate; a prediction",
    r"verdicts?": "prediction",
    r"guess\w*": "predict; prediction, pseudo-label",
    r"riddles?": "masked tokens, cloze sentences",
    r"gaps?(?!:| between)": "masked token",
    r"(hidden|hides?|hiding) (the |a |some |other )*(words?|tokens?)": "masked tokens",
    r"bags? of words": "n-gram baseline, linear baseline, or the system's name",
    r"boxed|(in|of|from) the box": "bundled",
    r"rooms?": "package, module; token budget, capacity",
    r"of the house": "of the package",
    r"from nothing": "from scratch",
    r"(has|have|had|having) (already |never |only |ever |not )?read": "pre-trained on",
    r"(texts?|reviews?|data|sentences?) without (any )?labels": "unlabelled",
    r"held(-| )out (reviews?|labels|part)|validation (part|reviews of train)": "validation set",
    r"first (weights|embeddings|vectors)": "initialization, initial weights",
    r"counted (ones|embeddings?|vectors?|start|first)|start from counts": "PMI embeddings, from co-occurrence counts",
    r"start (local|counted|averaging|classifier)": "initialize ...",
    r"left(-| )to(-| )right|(?-i:ltr)": "causal; a plain remark in brackets may follow it",
    r"(\w+ )?shares? of|(phase|warmup|validation|heldout|wait|token|budget|real) shares?": "ratio, fraction",
    r"rivals?": "baseline",
    r"credit(s|ed|ing)?": "attribution",
    r"strengths?": "relative attribution",
    r"(who|where) (may )?(heads )?looks?( at whom)?": "attention weights, attends to",
    r"(go|goes|going|went|gone) on": "resume, continue",
    r"mend(s|ed|ing)?": "fix",
    r"(hangs?|hanging|hung) (on|together)": "depend on",
    r"surer|surest": "(more, most) confident",
    r"what (comes?|came) (back|out)|as it is(?=[.,;:)])|beside it": "name the thing",
    r"by heart": "memorize",
    r"tick": "step_fraction",
}
"""Regular expressions of words, in which a space is any white space, with what to write in their place."""

NAMES = {
    "Ahead": "Prefetcher",
    "allowed": "attention_mask",
    "certain": "one_hot",
    "figures": "metrics",
    "guessed": "predicted",
    "learnt": "training",
    "share": "ratio, fraction",
    "shares": "ratios, fractions",
    "seen_from_left": "causal_mask",
}
"""Names of the package's functions, classes, parameters and fields that are not allowed, besides the words above."""

EXCEPTIONS = {
    # Everywhere: a plain remark on causal models, and terms of the field.
    "**": [r"causal\s+\(left-to-right\)", r"generali[sz]ation\s+gap", r"out\s+of\s+the\s+box"],
    # Committed runs have the keys of their time.
    "docs/lesson/lesson.py": [r"^CAUSAL = .*"],
    # Also Matplotlib's name of a method, and a sentence of a story.
    "BERT.ipynb": [r"^CAUSAL = .*", r"\.tick_params\(", r"took room nineteen"],
    "docs/companion/run.typ": [
        r"^// Older runs have .*\n.*",
        r'key\(.*?"\)',
        r'\("pmi", "counted"\)|\("local_attention", "local"\)',
        r'"?left-to-right"?(?=:|\n)|judged_next|at\("bag of words, judgements too"\)',
        r'^#let ablation-pmi = .*|^  "\+? ?[^"]*"(?=: ")',
    ],
    "results/bidirectional/README.md": [r"^Rows that the files call .*"],
    "results/imdb-mini/README.md": [r"`validation_share` in `recipe.yaml`"],
    # Rows of the tables are those of the committed results.
    "results/ablation/README.md": [r"^\| \+ .* \|$", r'^"Local first weights".*\n.*'],
    # Old names, with the new ones.
    "CHANGELOG.md": [r"^\| .*`.*\|$"],
    # The recipes of the runs that trained these models.
    "src/bertwright/bundled/encoder/README.md": [r"^```yaml(?s:.*?)^```"],
    "src/bertwright/bundled/sentiment/README.md": [r"^```yaml(?s:.*?)^```"],
    # Old names, which are refused with the new ones.
    "src/bertwright/models/checkpoints.py": [r'== "boxed"'],
    "src/bertwright/recipe_file.py": [r"^RENAMED = \{(?s:.*?)^\}"],
}
"""Parts of texts that are not checked: regular expressions for all files ("**") and for single ones."""

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "BERT.ipynb",
    "docs/**/*.md",
    "docs/companion/**/*.typ",
    "SKILL.md",
    "docs/**/*.py",
    "results/**/README.md",
    "sample/README.md",
    "tests/README.md",
    "recipes/**/*.yaml",
    "src/**/*.md",
    "src/**/*.html",
    "src/**/*.js",
    "src/**/*.j2",
)


def _found(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file())


FILES = [file for pattern in DOCUMENTS for file in _found(pattern)]
MODULES = _found("src/**/*.py")


def _compiled(pattern: str) -> re.Pattern[str]:
    """A word's expression: whole words, in any case, over the end of a line and a comment's mark."""
    return re.compile(r"\b(?:" + pattern.replace(" ", r"[\s#]+(?://\s)?") + r")\b", re.IGNORECASE)


COMPILED = {_compiled(pattern): instead for pattern, instead in BANNED.items()}


def without_exceptions(text: str, file: str) -> str:
    """A text with its exceptions blanked, so that lines keep their numbers."""
    for pattern in EXCEPTIONS["**"] + EXCEPTIONS.get(file.partition(" cell ")[0], []):
        text = re.sub(pattern, lambda found: re.sub(r"\S", " ", found[0]), text, flags=re.MULTILINE)
    return text


def faults(text: str, file: str = "") -> list[str]:
    """The banned words of a text, each with its line and what to write instead."""
    text = without_exceptions(text, file).replace("_", " ")
    return [
        f"{file}:{text.count(chr(10), 0, found.start()) + 1}: {' '.join(found[0].split())!r}: write {instead}"
        for pattern, instead in COMPILED.items()
        for found in pattern.finditer(text)
    ]


def prose(source: str, file: str) -> str:
    """A module's strings and comments, at their places, without its exceptions; all else is blank."""
    lines = without_exceptions(source, file).splitlines()
    blank = [[" "] * len(line) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE", "COMMENT"):
            (first, begin), (last, end) = token.start, token.end
            for number in range(first, last + 1):
                low, high = begin if number == first else 0, end if number == last else len(lines[number - 1])
                blank[number - 1][low:high] = lines[number - 1][low:high]
    return "\n".join("".join(line) for line in blank)


def names(source: str) -> Iterator[tuple[int, str]]:
    """The names of a module's functions, classes, parameters and fields, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    yield part.lineno, part.target.id


def faults_of_names(source: str, file: str = "") -> list[str]:
    """The names of a module that are not allowed, or that have a banned word in them."""
    found = []
    for line, name in names(source):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
        instead = [NAMES[name.lstrip("_")]] if name.lstrip("_") in NAMES else []
        instead += [fault.rpartition(": ")[2] for fault in faults(words)]
        found += [f"{file}:{line}: the name {name!r}: {what}" for what in instead]
    return found


def cells(notebook: str) -> Iterator[str]:
    """The source of each cell of a notebook, with the text that it prints."""
    for cell in json.loads(notebook)["cells"]:
        outputs = [
            {"text/plain": output.get("text", ""), **output.get("data", {})} for output in cell.get("outputs", [])
        ]
        yield "\n".join("".join(part) for part in (cell["source"], *(output["text/plain"] for output in outputs)))


def faults_of_document(file: str) -> list[str]:
    """The banned words of a file of `DOCUMENTS`; of a notebook those of each cell."""
    text = (ROOT / file).read_text()
    if file.endswith(".ipynb"):
        numbered = enumerate(cells(text), start=1)
        return [fault for number, cell in numbered for fault in faults(cell, f"{file} cell {number}")]
    return faults(prose(text, file) if file.endswith(".py") else text, file)


def faults_of_module(file: str) -> list[str]:
    """The banned words of a module's strings, comments and names."""
    source = (ROOT / file).read_text()
    return faults(prose(source, file), file) + faults_of_names(source, file)


@pytest.mark.parametrize("file", FILES)
def test_a_document_uses_the_words_of_the_field(file):
    assert faults_of_document(file) == []


@pytest.mark.parametrize("file", MODULES)
@pytest.mark.slow
def test_a_module_uses_the_words_of_the_field(file):
    assert faults_of_module(file) == []


def help_texts() -> dict[str, str]:
    """What `bertwright --help` and each command's --help print."""
    from bertwright.cli import make_parser

    parser = make_parser()
    texts = {"": parser.format_help()}
    for action in parser._actions:
        for name, command in (action.choices or {}).items() if isinstance(action.choices, dict) else ():
            texts[name] = command.format_help()
    return texts


@pytest.mark.slow
def test_the_help_uses_the_words_of_the_field():
    texts = help_texts()
    assert {"", "run", "predict"} <= set(texts)
    for command, text in texts.items():
        assert faults(text, f"bertwright {command} --help") == []


@pytest.mark.parametrize(
    "text",
    [
        "The model judges each review.",
        "misjudged",
        "a_verdict",
        "the hidden\n    words",
        "# a bag\n# of words",
        "// a bag\n// of words",
        "pretrain.first_weights",
        "in the box",
        "a left-to-right model",
        "ltr_loss",
        "data_wait_share",
        "the surest",
        "What comes back is an array.",
        "sent as it is.",
    ],
)
def test_a_banned_word_is_seen(text):
    assert len(faults(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "hidden_states and hidden_size",
        "a causal (left-to-right) model",
        "out of the box",
        "the generalization gap, and the gap between both",
        "display: grid; gap: 1rem",
        "rows share a folder",
        "the model as it is trained",
        "bag-of-words features",
        "mushroom, amended, measure",
        "read-only, has_bf16",
    ],
)
def test_a_word_of_the_field_passes(text):
    assert faults(text) == []


def test_a_name_is_seen():
    source = "class JudgedPairs: ...\ndef _guess_name(share): ...\ndef predict(texts): ...\n"
    assert len(faults_of_names(source)) == 3
