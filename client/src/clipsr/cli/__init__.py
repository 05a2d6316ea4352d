"""The command line `clipsr-client`."""

from __future__ import annotations

from clipsr.cli._main import main

__all__ = ["main"]
