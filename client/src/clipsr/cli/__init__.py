"""The command line `clipsr-client`."""

from clipsr.cli._main import main

__all__ = ["main"]
