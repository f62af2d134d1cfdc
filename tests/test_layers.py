"""A room imports only from the rooms to its left: text, objectives, model, train, tasks, evaluate, use, cli."""

import ast

from conftest import ROOT

ROOMS = ["text", "objectives", "model", "train", "tasks", "evaluate", "use", "cli"]
PACKAGE = ROOT / "src" / "bertwright"


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            parts = name.split(".")
            if parts[0] == "bertwright" and len(parts) > 1 and parts[1] in ROOMS:
                yield parts[1]


def test_no_room_imports_from_a_room_to_its_right():
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        place = ROOMS.index(room) if room in ROOMS else -1  # config, errors, files, run stand left of all rooms
        place = len(ROOMS) if room in ("__init__", "__main__", "cli") else place
        for other in imported_rooms(path):
            seen += 1
            assert ROOMS.index(other) <= place, f"{path.relative_to(PACKAGE)} imports from {other}"
    assert seen > 20


def test_what_handles_text_does_not_need_torch():
    # Workers that tokenize import these rooms: torch would cost each of them seconds and hundreds of megabytes.
    for room in ("text", "objectives"):
        for path in (PACKAGE / room).glob("*.py"):
            assert "import torch" not in path.read_text(), path.name
