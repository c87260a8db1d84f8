"""Imports run one way, dnas < search_spaces < launch and within dnas; nothing a user hands us is evaluated or unpickled."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"dnas": {"flax", "search_spaces", "launch"}, "search_spaces": {"launch"}, "launch": set()}
FILES = [path for top in FORBIDDEN for path in sorted((ROOT / top).rglob("*.py"))]

ROOMS = ("types", "task", "data", "algorithms", "methods", "runs", "engine", "fronts", "fewshot", "selection", "config",
         "tabular", "reports", "api", "formats", "studies")
"""Of dnas; each may import those before it."""
ANYWHERE = ("platform", "registry", "options", "shared_options", "printing")
"""Modules of dnas that every room may import, and that import none."""
INSIDE = [path for path in FILES if path.relative_to(ROOT).parts[0] == "dnas"]


def rooms_of(path):
    """The rooms of dnas that a file imports when it runs, those that only a type checker reads left out."""
    tree, package = ast.parse(path.read_text()), path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[:len(package) + 1 - node.level], node.module or ""]) if node.level else node.module
            modules = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (module.split(".")[1] for module in modules if module.startswith("dnas."))


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_lower_room_imports_a_higher_one(path):
    here, rooms = path.relative_to(ROOT / "dnas").with_suffix("").parts[0], set(rooms_of(path))
    above = {here: set(ROOMS[number + 1:]) for number, here in enumerate(ROOMS)} | dict.fromkeys(ANYWHERE, set(ROOMS))
    assert not rooms & above.get(here, set())


def test_the_rooms_are_those_of_the_package():
    assert all(any(path.is_relative_to(ROOT / "dnas" / room) or path == ROOT / "dnas" / f"{room}.py" for path in INSIDE)
               for room in (*ROOMS, *ANYWHERE))
    assert set(rooms_of(ROOT / "dnas/engine/search.py")) >= {"algorithms", "data", "engine", "task", "types"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_and_calls(path):
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for module in modules:
            assert module.split(".")[0] not in forbidden | {"pickle", "dill", "cloudpickle"}, f"line {node.lineno}"
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") not in ("eval", "exec"), f"line {node.lineno}"
            assert not any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords)


def test_there_is_something_to_test():
    assert len(FILES) > 20
