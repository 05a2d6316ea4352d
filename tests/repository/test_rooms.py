"""The table of rooms holds: who may import what, checked from both sides, and the check itself can fail."""

from __future__ import annotations

import ast
import configparser
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = REPO_ROOT / ".importlinter"
ROOMS = {
    "client": "clipsr",
    "gateway": "clipsr_gateway",
    "serving": "clipsr_serving",
    "training": "clipsr_training",
    "export": "clipsr_export",
}

# One import per contract that it must refuse.
FORBIDDEN = [
    ("clipsr", "numpy"),
    ("clipsr", "tritonclient"),
    ("clipsr", "gradio"),
    ("clipsr", "clipsr_serving"),
    ("clipsr_gateway", "torch"),
    ("clipsr_gateway", "lancedb"),
    ("clipsr_gateway", "clipsr_serving"),
    ("clipsr_serving", "torch"),
    ("clipsr_serving", "clipsr"),
    ("clipsr_training", "clipsr_export"),
    ("clipsr_training", "clipsr"),
    ("clipsr_training", "onnxruntime"),
    ("clipsr_training", "clipsr_serving"),
    ("clipsr_export", "clipsr_gateway"),
    ("clipsr_export", "clipsr_serving"),
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the repository's contracts on the packages in `folder` instead of the real ones."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--config", CONTRACTS, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def contracts(kind: str) -> list[configparser.SectionProxy]:
    """The contracts of one kind, `forbidden` or `layers`."""
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS, encoding="utf-8")
    sections = [parser[name] for name in parser.sections() if ":contract:" in name]
    assert {section["type"] for section in sections} == {"forbidden", "layers"}
    return [section for section in sections if section["type"] == kind]


def layers() -> dict[str, list[list[str]]]:
    """By package, its layers from the top; rooms that share one may not import each other."""
    return {
        section["containers"].strip(): [row.split(" | ") for row in section["layers"].strip().splitlines()]
        for section in contracts("layers")
    }


def rooms_of(package: str) -> list[str]:
    """The rooms of a package that stand in a layer."""
    return list(itertools.chain.from_iterable(layers()[package]))


@pytest.fixture
def fake_rooms(tmp_path: Path) -> Path:
    """Five empty packages with the rooms' names, and in them the rooms that layers are made of."""
    packages = [*ROOMS.values(), *(f"{package}/{room}" for package in layers() for room in rooms_of(package))]
    for package in packages:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def test_contracts_keep_clean_rooms(fake_rooms: Path) -> None:
    result = lint_imports(fake_rooms)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN)
def test_contract_trips_on_a_forbidden_import(fake_rooms: Path, package: str, forbidden: str) -> None:
    (fake_rooms / package / "__init__.py").write_text(f"import {forbidden}\n", encoding="utf-8")
    result = lint_imports(fake_rooms)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{package} is not allowed to import {forbidden}" in result.stdout


def test_every_contract_is_shown_to_trip() -> None:
    contracted = {section["source_modules"].strip() for section in contracts("forbidden")}
    assert contracted == {package for package, _ in FORBIDDEN} == set(ROOMS.values())


def upward_imports() -> list[tuple[str, str, str]]:
    """(package, room, import that it must not have): a room and the one above, and rooms side by side."""
    found: list[tuple[str, str, str]] = []
    for package, rows in layers().items():
        found += [(package, lower[0], upper[-1]) for upper, lower in itertools.pairwise(rows)]
        found += [(package, row[0], row[1]) for row in rows if len(row) > 1]
    return found


@pytest.mark.parametrize(("package", "room", "other"), upward_imports())
def test_layers_trip_on_an_import_that_goes_up_or_sideways(
    fake_rooms: Path, package: str, room: str, other: str
) -> None:
    (fake_rooms / package / room / "__init__.py").write_text(f"import {package}.{other}\n", encoding="utf-8")
    result = lint_imports(fake_rooms)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{package}.{room} is not allowed to import {package}.{other}" in result.stdout


def imported_modules(path: Path) -> set[str]:
    """Absolute modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def importers(folder: Path, module: str) -> list[str]:
    """Files below `folder` that import `module` or something in it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if any(name == module or name.startswith(f"{module}.") for name in imported_modules(path))
    )


def test_the_gateway_reaches_each_big_dependency_through_one_module() -> None:
    source = REPO_ROOT / "gateway" / "src" / "clipsr_gateway"
    assert importers(source, "tritonclient") == ["_backend/triton.py"]
    assert importers(source, "prometheus_client") == ["_server/metrics.py"]
    assert importers(source, "opentelemetry") == ["_tracing.py"]


def test_training_reaches_each_other_back_end_through_one_module() -> None:
    source = REPO_ROOT / "training" / "src" / "clipsr_training"
    assert importers(source, "clipsr") == ["evaluation/_backends/grpc.py"]
    assert importers(source, "onnxruntime") == ["evaluation/_backends/onnx.py"]
    assert importers(source, "clipsr_serving") == ["evaluation/_backends/onnx.py"]


# The models and their checkpoints, through the packages' public names; not the training around them.
# Data and evaluation: quantization calibrates on images, and says what they are embedded as. Ctrl-C and SIGTERM end
# the commands of both rooms alike.
PUBLIC_FOR_EXPORT = {
    "adapt",
    "clip",
    "controller",
    "data",
    "degradation",
    "evaluation",
    "interrupts",
    "liif",
    "none_of_these",
    "prompts",
    "restoration",
}


def not_for_export(modules: set[str]) -> list[str]:
    """Imports from training that export may not use: other packages, or private modules in the allowed ones."""
    return sorted(
        name
        for name in modules
        if name.startswith("clipsr_training.")
        and (name.split(".")[1] not in PUBLIC_FOR_EXPORT or any(part.startswith("_") for part in name.split(".")))
    )


def test_export_takes_only_public_models_from_training() -> None:
    for path in (REPO_ROOT / "export" / "src").rglob("*.py"):
        assert not not_for_export(imported_modules(path)), path.name


def test_export_s_check_trips() -> None:
    assert not_for_export(
        {"clipsr_training._cli.train", "clipsr_training.liif._train", "clipsr_training.liif", "torch"}
    ) == [
        "clipsr_training._cli.train",
        "clipsr_training.liif._train",
    ]


def test_import_finder_sees_nested_imports(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from tritonclient.grpc import aio\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("import tritonclient_like\n", encoding="utf-8")
    assert importers(tmp_path, "tritonclient") == ["a.py"]
