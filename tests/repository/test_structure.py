"""The shape of the code: files and functions of a size to read at once, and no import circle between files."""

from __future__ import annotations

import ast
import graphlib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 400, 60
FOLDERS = ("*/src", "benchmarks", "model_repository", "scripts")
PACKAGES = ("clipsr", "clipsr_gateway", "clipsr_serving", "clipsr_training", "clipsr_export", "benchmarks")


def product_files() -> list[Path]:
    """Python files of the product and its tools, generated ones left out."""
    files = (path for pattern in FOLDERS for folder in REPO_ROOT.glob(pattern) for path in folder.rglob("*.py"))
    return sorted(path for path in files if not is_generated(path))


def is_generated(path: Path) -> bool:
    """Whether protoc wrote the file, or a script that says so in the first line."""
    return path.stem.endswith(("_pb2", "_pb2_grpc")) or path.read_text("utf-8").startswith("# Written by scripts/")


def too_large(path: Path, root: Path) -> set[str]:
    """The file, and functions in it as `file: function`, that have more lines than they may, docstrings included."""
    name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
    found = {name} if len(text.splitlines()) > MOST_LINES_OF_A_FILE else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
                found.add(f"{name}: {node.name}")
    return found


def test_files_and_functions_are_of_a_size_to_read_at_once():
    files = product_files()
    assert len(files) > 100
    assert not set().union(*(too_large(path, REPO_ROOT) for path in files))


def test_only_generated_files_are_left_out(tmp_path):
    (tmp_path / "a.py").write_text('"""Written by scripts/b.py, says a docstring."""\n', encoding="utf-8")
    (tmp_path / "b.py").write_text("# Written by scripts/unasync.py from a.py: change that one.\n", encoding="utf-8")
    (tmp_path / "c_pb2.py").touch()
    assert [is_generated(tmp_path / name) for name in ("a.py", "b.py", "c_pb2.py")] == [False, True, True]


@pytest.mark.parametrize(("lines", "found"), [(60, set()), (61, {"a.py: f"})])
def test_a_function_that_is_too_long_is_found(tmp_path, lines, found):
    body = "".join("        pass\n" for _ in range(lines - 1))
    (tmp_path / "a.py").write_text(f"class A:\n    async def f(self):\n{body}", encoding="utf-8")
    assert too_large(tmp_path / "a.py", tmp_path) == found


@pytest.mark.parametrize(("lines", "found"), [(400, set()), (401, {"a.py"})])
def test_a_file_that_is_too_long_is_found(tmp_path, lines, found):
    (tmp_path / "a.py").write_text("pass\n" * lines, encoding="utf-8")
    assert too_large(tmp_path / "a.py", tmp_path) == found


def circle(packages: Iterable[str]) -> list[str]:
    """Modules that import each other in a circle, imports inside functions included; empty if there is no circle."""
    first, *rest = packages
    graph = grimp.build_graph(first, *rest, exclude_type_checking_imports=True, cache_dir=None)
    assert len(graph.modules) > 3
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_file_imports_itself_in_a_circle():
    assert circle(PACKAGES) == []


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ("import json\n", False),
        ("from rooms.first import a\n", True),
        ("def f():\n    from rooms import first\n", True),
        ("from rooms import name\n", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rooms import first\n", False),
    ],
    ids=["none", "module", "inside a function", "through the package", "for type checkers"],
)
def test_a_circle_is_found(tmp_path, monkeypatch, last, found):
    files = {
        "__init__": "from rooms.first import a as name\n",
        "first": "from rooms import second\na = 1\n",
        "second": "import rooms.third\n",
        "third": last,
    }
    (tmp_path / "rooms").mkdir()
    for name, text in files.items():
        (tmp_path / "rooms" / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rooms", raising=False)
    importlib.invalidate_caches()
    assert ("rooms.third" in circle(["rooms"])) is found
