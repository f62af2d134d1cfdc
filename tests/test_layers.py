"""The layers of the package: a module imports from its own layer and those below it, and no modules form a cycle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

import bertwright
from conftest import ROOT

PACKAGE = ROOT / "src" / "bertwright"
LAYERS = (
    {"errors", "files", "arrays"},
    {"ranges", "settings", "finetune_settings", "recipe"},
    {"text"},
    {"inputs"},
    {"models"},
    {"train"},
    {"tasks"},
    {"pretrained", "given", "vectors", "inference"},
    {"evaluate"},
    {"run_folder", "shipped", "recipe_file", "stages", "pipeline"},
    {"apps"},
    {"cli"},
    {"__init__", "__main__"},
)
"""From bottom to top; a name is a module or a package of modules."""

MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
"""The files by dotted name within the package, such as `text.wordpiece` or `text.__init__`."""

MOST_LINES = 350
MOST_LINES_OF_A_FUNCTION = 60


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module.partition(".")[0] in names)


def imported_at_run_time(tree: ast.AST, deferred: bool = False) -> Iterator[tuple[str, bool]]:
    """The names that a module imports, as in `bertwright.text.store`, and whether a function imports them when called.

    What only type checkers import is left out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from ((f"{node.module}.{alias.name}", deferred) for alias in node.names)
        else:
            inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imported_at_run_time(node, inside)


def ours(name: str) -> str | None:
    """The module of the package that an imported name stands for or stands in; None for another library's."""
    parts = name.split(".")
    if parts[0] != "bertwright":
        return None
    for length in range(len(parts), 1, -1):
        inner = ".".join(parts[1:length])
        if inner in MODULES:
            return inner
        if f"{inner}.__init__" in MODULES:
            return f"{inner}.__init__"
    return "__init__"


def arrows(modules: dict[str, str]) -> Iterator[tuple[str, str, str, bool]]:
    """Importing module, imported module, imported name, and whether it is deferred, for the source of each module."""
    for module, source in modules.items():
        for name, deferred in imported_at_run_time(ast.parse(source)):
            other = ours(name)
            if other is not None and other != module:
                yield module, other, name, deferred


def upward(modules: dict[str, str]) -> list[str]:
    """What is imported from a higher layer. The package itself may be: it holds the version, and loads lazily."""
    return [
        f"{module} imports {name}"
        for module, other, name, _ in arrows(modules)
        if layer_of(other) > layer_of(module) and name not in ("bertwright", "bertwright.__version__")
    ]


def cycle(modules: dict[str, str]) -> list[str] | None:
    """Modules that import each other in a circle as they load."""
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, other, _, deferred in arrows(modules):
        if not deferred:
            graph[module].add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {module: path.read_text() for module, path in MODULES.items()}


def test_every_module_stands_in_a_layer():
    assert {module.partition(".")[0] for module in MODULES} == set().union(*LAYERS)


@pytest.mark.slow
def test_no_module_imports_from_a_higher_layer(sources):
    assert len(list(arrows(sources))) > 100
    assert upward(sources) == []
    # Not even when a function is called; and the test can fail.
    added = sources["text.store"] + "\ndef f():\n    from bertwright.models import bert\n"
    assert upward({**sources, "text.store": added}) == ["text.store imports bertwright.models.bert"]


@pytest.mark.slow
def test_public_names_are_used_inside_the_package_only_above_their_module(sources):
    # `import bertwright` is below all layers at first; its names load the modules that hold them.
    homes = {"__version__": "errors", "__doc__": "errors"}
    for node in ast.walk(ast.parse(sources["__init__"])):
        if isinstance(node, ast.ImportFrom):
            homes |= {alias.name: str(node.module).removeprefix("bertwright.") for alias in node.names}
    assert set(bertwright.__all__) <= homes.keys()
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bertwright":
                assert layer_of(homes[node.attr]) <= layer_of(module), f"{module} uses bertwright.{node.attr}"


@pytest.mark.slow
def test_no_modules_import_each_other_in_a_circle(sources):
    assert cycle(sources) is None
    added = sources["text.formats"] + "\nfrom bertwright.text import corpus\n"
    assert {"text.formats", "text.corpus"} <= set(cycle({**sources, "text.formats": added}) or ())


@pytest.mark.slow
def test_accelerate_is_imported_by_the_engine_alone(sources):
    found = {
        module
        for module, source in sources.items()
        for name, _ in imported_at_run_time(ast.parse(source))
        if name.partition(".")[0] == "accelerate"
    }
    assert found == {"train.engine"}


@pytest.mark.slow
def test_text_and_inputs_do_not_need_torch():
    # Workers that tokenize import these packages: torch would cost each of them seconds and hundreds of megabytes.
    names = [module for module in MODULES if module.startswith(("text.", "inputs."))]
    assert len(names) > 12
    modules = [f"bertwright.{name.removesuffix('.__init__')}" for name in names]
    program = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "print(all(name in sys.modules for name in " + repr(modules) + "))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", ["cls_id", "sep_id"])
def test_sequences_are_framed_in_one_place(sources, name):
    found = {module for module, source in sources.items() if name in source}
    assert found == {"text.wordpiece", "inputs.sequences"}


def fills_rows_with_padding(source: str) -> bool:
    """Whether some call makes rows of [PAD], or a library's function for padding sequences is used."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            arguments = " ".join(ast.unparse(argument) for argument in (*node.args, *(k.value for k in node.keywords)))
            own = ast.unparse(node.func) == "pad"  # of inputs.bucketing
            if "pad_" in arguments and not own and called in ("full", "full_like", "new_full", "fill_", "fill", "pad"):
                return True
            if called in ("pad_sequence", "enable_padding"):
                return True
    return False


@pytest.mark.slow
def test_sequences_are_padded_in_one_place(sources):
    found = {module for module, source in sources.items() if fills_rows_with_padding(source)}
    # inputs.pretraining lays padded rows among those of the other processes, to draw the masks of the global batch.
    assert found == {"inputs.bucketing", "inputs.pretraining"}
    assert [module for module, source in sources.items() if "def pad(" in source] == ["inputs.bucketing"]


@pytest.mark.slow
def test_modules_and_functions_are_short_enough_to_be_read(sources):
    longer = {module for module, source in sources.items() if len(source.splitlines()) > MOST_LINES}
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
                    longer.add(f"{module}.{node.name}")
    assert not longer
