"""docs/cli.md holds the `--help` of every command, word for word.

After a change of the command line, write it anew: `python tests/client/test_cli_docs.py --write`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest

from clipsr.cli._exits import ExitCode
from clipsr.cli._main import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
HELP_WIDTH = 88  # fits a page of documentation
BLOCK = re.compile(r"(<!-- help: ([a-z -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> dict[str, str]:
    """The help of each command by its full name."""
    settings = cli.context_settings | {"terminal_width": HELP_WIDTH}
    root = click.Context(cli, info_name="clipsr-client", **settings)
    helps = {"clipsr-client": cli.get_help(root)}
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, info_name=name, parent=root, terminal_width=HELP_WIDTH)
        helps[f"clipsr-client {name}"] = command.get_help(context)
    return helps


def fill(page: str) -> str:
    """The page with the help of today between its marks."""
    helps = commands()
    return BLOCK.sub(lambda match: f"{match[1]}```text\n{helps[match[2]].rstrip()}\n```\n{match[3]}", page)


def test_every_command_is_documented() -> None:
    assert sorted(match[2] for match in BLOCK.finditer(PAGE.read_text("utf-8"))) == sorted(commands())


def test_the_page_shows_the_help_of_today() -> None:
    page = PAGE.read_text("utf-8")
    assert page == fill(page), f"write it anew: python {Path(__file__).name} --write"


def test_a_drift_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(cli.commands["health"], "help", "Something else.")
    assert page != fill(page)


def test_every_exit_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [int(row) for row in rows] == sorted(ExitCode)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
