"""``__all__`` is true: every name in it exists, every public definition of a module is in it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src"
MODULES = sorted(
    path for path in (SOURCE / "fastim").rglob("*.py") if path.name not in {"__init__.py", "__main__.py"}
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


@pytest.mark.parametrize("name", [*map(name_of, MODULES), "fastim"])
def test_all_when_imported_then_each_name_exists_once(name: str) -> None:
    module = importlib.import_module(name)
    exported: list[str] = getattr(module, "__all__", [])
    assert len(exported) == len(set(exported))
    missing = [each for each in exported if not hasattr(module, each)]
    assert not missing, f"{name}.__all__ names {missing}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_when_it_defines_classes_then_it_says_what_it_exports(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    public = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    says = any(
        isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(node).split("=")[0]
        for node in tree.body
    )
    assert says or not public, f"{path.name} defines {public} and has no __all__"
