"""docs/export.md holds the `--help` of every command of the export, word for word.

After a change of a command line, write it anew: `python -m tests.export.test_docs --write`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from unittest import mock

from clipsr_export import cli
from clipsr_export._commands import clip
from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def commands() -> dict[str, str]:
    """The help of each command by its full name."""
    # argparse wraps at two columns less than the terminal has, and only the environment can say how many that is.
    with mock.patch.dict(os.environ, {"COLUMNS": str(HELP_WIDTH + 2)}):
        parser = cli.build_parser()
        (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parsers = [parser, *group.choices.values()]
        return {command.prog: command.format_help() for command in parsers}


def test_every_command_is_documented():
    assert documented(PAGE.read_text("utf-8")) == sorted(commands())


def test_the_page_shows_the_help_of_today():
    page = PAGE.read_text("utf-8")
    assert page == fill(page, commands()), "write it anew: python -m tests.export.test_docs --write"


def test_a_drift_is_noticed(monkeypatch):
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(clip, "DEFAULT_COMMAND", "something")
    assert page != fill(page, {**commands(), "clipsr-export checkpoints": "something else"})


if __name__ == "__main__":
    write_if_asked(PAGE, commands())
