"""docs/cli.md holds the `--help` of every command, word for word.

After a change of the command line, write it anew: `python -m tests.client.cli.test_docs --write`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

from clipsr.cli._exits import ExitCode
from clipsr.cli._main import cli

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def commands() -> dict[str, str]:
    """The help of each command by its full name."""
    settings = cli.context_settings | {"terminal_width": HELP_WIDTH}
    return dict(walk(cli, click.Context(cli, info_name="clipsr-client", **settings)))


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Full name and help of a command, and of those below it."""
    yield context.command_path, command.get_help(context)
    below = command.commands if isinstance(command, click.Group) else {}
    for name, each in sorted(below.items()):
        yield from walk(each, click.Context(each, info_name=name, parent=context, terminal_width=HELP_WIDTH))


def test_every_command_is_documented() -> None:
    assert documented(PAGE.read_text("utf-8")) == sorted(commands())


def test_the_page_shows_the_help_of_today() -> None:
    page = PAGE.read_text("utf-8")
    assert page == fill(page, commands()), "write it anew: python -m tests.client.cli.test_docs --write"


def test_a_drift_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(cli.commands["health"], "help", "Something else.")
    assert page != fill(page, commands())


def test_every_exit_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [int(row) for row in rows] == sorted(ExitCode)


if __name__ == "__main__":
    write_if_asked(PAGE, commands())
