"""`clipsr-client library`: keep images, find them by words or by example."""

from clipsr.cli.library._commands import library

__all__ = ["library"]
