"""docs/deployment.md holds the `--help` of `clipsr-serve`, word for word.

After a change of the command line, write it anew: `python -m tests.serving.test_docs --write`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from unittest import mock

from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

from clipsr_serving.launcher import _cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"


def commands() -> dict[str, str]:
    """The help of each command, by its full name."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(HELP_WIDTH + 2)}):
        parser = _cli.make_parser()
        (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        return {f"clipsr-serve {name}": command.format_help() for name, command in group.choices.items()}


def test_every_command_is_documented():
    assert documented(PAGE.read_text("utf-8")) == sorted(commands())


def test_the_page_shows_the_help_of_today():
    page = PAGE.read_text("utf-8")
    assert page == fill(page, commands()), "write it anew: python -m tests.serving.test_docs --write"


def test_a_drift_is_noticed(monkeypatch):
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(_cli, "_UP_EPILOG", "something else")
    assert page != fill(page, commands())


if __name__ == "__main__":
    write_if_asked(PAGE, commands())
