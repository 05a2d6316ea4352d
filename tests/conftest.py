"""Fixtures that every room's tests share."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.crashes import keep_faulthandler as keep_faulthandler
from tests.ports import hold_port

REPO_ROOT = Path(__file__).resolve().parents[1]
SEED = 20260707
# Of integration/, most files are few tests that each start a service.
_LONGEST_FIRST = ("integration", "export", "training", "serving")

# openvino reports every import of itself over the Internet by this package; without it, it has a stub.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType, reportCallIssue]
# onnxruntime reports what it runs to its maker; it looks for this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_configure() -> None:
    """Set what every test relies on: interrupts, and examples that are the same each time."""
    # A shell makes a run in the background ignore interrupts, and so would the tests' processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Hypothesis's own profile for CI: no deadline for an example, which a busy machine would miss.
    settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the rooms first whose files take longest, so that no worker ends with one of them alone."""
    order = {room: place for place, room in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(REPO_ROOT / "tests").parts[0], len(order)))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator in use, so that a test fails today as it failed yesterday."""
    random.seed(SEED)
    try:
        import numpy as np
    except ModuleNotFoundError:  # the tests of the thin client also run without numpy
        pass
    else:
        np.random.seed(SEED)
    torch = sys.modules.get("torch")  # importing torch costs seconds; seed it only where a test has done so
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(SEED)
    return SEED


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port on which nobody listens; see hold_port()."""
    with hold_port() as port:
        yield port


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root."""
    return REPO_ROOT


def folder_from(variable: str, default: Path) -> Path:
    """Return the folder that an environment variable names, or the default; skip where it is absent."""
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder.name}/ is not here: set {variable} to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Development data (CIFAR, super-resolution sets, photos): `CLIPSR_DATA`, or `../shared/data`."""
    return folder_from("CLIPSR_DATA", REPO_ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Reference outputs of other implementations: `CLIPSR_GOLDEN`, or `../shared/golden`."""
    return folder_from("CLIPSR_GOLDEN", REPO_ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def serve_bin() -> Path:
    """The `bin` folder of the runtime environment, which holds clipsr-serve, -gateway and -client.

    `CLIPSR_SERVE_VENV`, or `.venv-serve` as `make` builds it. Its absence is a failure, not a skip:
    without it nothing would be tested end to end.
    """
    folder = Path(os.environ.get("CLIPSR_SERVE_VENV", REPO_ROOT / ".venv-serve")) / "bin"
    if not (folder / "clipsr-serve").is_file():
        pytest.fail(f"{folder} holds no clipsr-serve; run `make install-serve`, or set CLIPSR_SERVE_VENV")
    return folder


@pytest.fixture(scope="session")
def graphs_written_once(tmp_path_factory) -> Iterator[Callable[..., None]]:
    """Let every export take graphs of the same weights from an earlier one; the value is its `write_onnx`."""
    from tests.export.reuse import EXPORTING_MODULES, write_once

    own = tmp_path_factory.getbasetemp()
    kept = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "graphs"
    kept.mkdir(exist_ok=True)
    write = functools.partial(write_once, kept)
    with pytest.MonkeyPatch.context() as patch:
        for module in EXPORTING_MODULES:
            patch.setattr(f"{module}.write_onnx", write)
        yield write
