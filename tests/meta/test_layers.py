"""The layers of the design, from the imports: each module imports only what lies below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "fastim"

# What each part may import besides itself. errors and _version are below everything.
BELOW = {
    "errors": set[str](),
    "_version": set[str](),
    "_core": {"errors"},
    "wire": {"errors", "_core"},
    "store": {"errors", "_core"},
    "bus": {"errors", "_core"},
    "im": {"errors", "_core", "wire", "store", "bus"},
    "guard": {"errors", "_core", "wire"},
    "collab": {"errors", "_core", "wire", "store", "bus"},
    "client": {"errors", "_version", "wire"},
    "server": {"errors", "_version", "_core", "wire", "store", "bus", "im", "guard", "collab"},
    "cli": {"errors", "_version", "guard", "server", "client"},
    "__main__": {"cli"},
    "__init__": {"_version", "errors", "server", "client"},
}
# Backends are chosen by the wiring alone; the domain knows the interfaces.
DOMAIN_KNOWS = {"store": {"base", "cache"}, "bus": {"base"}}
# What the compiled core must not know (time comes in as now_ns), and who alone may read settings.
NOT_IN_CORE = {"asyncio", "logging", "time", "os", "pydantic", "pydantic_settings", "socket", "threading"}
SETTINGS_READERS = {"server", "cli"}

FILES = sorted(path for path in SOURCE.rglob("*") if path.suffix in {".py", ".pyi", ".pyx", ".pxd"})
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of each module that a source imports, wherever in it."""
    text = path.read_text()
    if path.suffix in {".pyx", ".pxd"}:
        for match in CYTHON_IMPORT.finditer(text):
            yield match[1] or match[2]
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_parts_when_listed_then_every_one_has_its_place() -> None:
    assert {part_of(path) for path in FILES} <= set(BELOW)


def test_layers_when_drawn_then_without_a_circle() -> None:
    seen: set[str] = set()
    while len(seen) < len(BELOW):
        ready = {part for part, below in BELOW.items() if part not in seen and below <= seen}
        assert ready, f"a circle among {set(BELOW) - seen}"
        seen |= ready


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_when_followed_then_they_only_go_down(path: Path) -> None:
    part = part_of(path)
    for module in imports(path):
        names = module.split(".")
        if names[0] == "fastim" and len(names) > 1 and names[1] in BELOW:
            assert names[1] in BELOW[part] | {part}, f"{name_of(path)} imports {module}"
        if part == "im" and names[0] == "fastim" and len(names) > 2 and names[1] in DOMAIN_KNOWS:
            assert names[2] in DOMAIN_KNOWS[names[1]], f"{name_of(path)} knows the backend {module}"
        if part == "_core":
            assert names[0] not in NOT_IN_CORE, f"{name_of(path)} imports {module}"
        if part not in SETTINGS_READERS:
            assert not module.startswith(("fastim.server.settings", "pydantic")), f"{name_of(path)}: {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=name_of)
def test_printing_when_looked_for_then_only_in_the_command_line(path: Path) -> None:
    """cli alone prints or exits; the client's chat is run by it, and serve prints its one line."""
    if part_of(path) == "cli" or name_of(path) in {"client/chat.py", "server/process/run.py"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "exit", "sys.exit", "os._exit"}, f"{name_of(path)}:{node.lineno}"
