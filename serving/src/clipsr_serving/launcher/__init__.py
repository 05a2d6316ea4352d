"""The command `clipsr-serve`: starts Triton and the gateway, waits until they answer, stops them in order."""

from __future__ import annotations

from clipsr_serving.launcher._cli import main, make_parser

__all__ = ["main", "make_parser"]
