"""What the fake programs share: a journal that the test reads, and orders that it writes."""

from __future__ import annotations

import os
from pathlib import Path

JOURNAL = Path(os.environ["FAKE_JOURNAL"])


def note(word: str) -> None:
    """Append a line."""
    with JOURNAL.open("a") as file:
        file.write(word + "\n")


def read_mode(name: str) -> str:
    """Return what the test orders, after the start in a file, before it in the environment."""
    orders = Path(f"{JOURNAL}.{name}")
    return orders.read_text() if orders.exists() else os.environ.get(f"FAKE_{name.upper()}", "")
