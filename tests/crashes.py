"""Tracebacks of crashes, also after a training run.

pytest lets `faulthandler` write where a worker crashed. Lightning's `fit` gives every signal back to Python's handler
of before, and knows none that C code installed: a crash in a later test would end the worker without a line.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key  # pytest's copy of standard error; it has no public name


@pytest.fixture(autouse=True)
def keep_faulthandler(request: pytest.FixtureRequest) -> Iterator[None]:
    """Install the handlers again after a test that may have trained."""
    yield
    descriptor = request.config.stash.get(fault_handler_stderr_fd_key, None)
    if descriptor is not None and "lightning" in sys.modules:
        faulthandler.disable()  # it takes itself for installed still
        faulthandler.enable(file=descriptor)
