"""docs/training.md holds the `--help` of every command of the training room, word for word.

After a change of a command line, write it anew: `python -m tests.training.test_docs --write`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from unittest import mock

import pytest

from clipsr_training import cli, eval_cli
from clipsr_training.liif import _recipes
from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def commands() -> dict[str, str]:
    """The help of each command by its full name."""
    helps: dict[str, str] = {}
    # argparse wraps at two columns less than the terminal has, and only the environment can say how many that is.
    with mock.patch.dict(os.environ, {"COLUMNS": str(HELP_WIDTH + 2)}):
        for parser in (cli.build_parser(), eval_cli.build_parser()):
            helps[parser.prog] = parser.format_help()
            (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
            helps |= {command.prog: command.format_help() for command in group.choices.values()}
    return helps


def test_every_command_is_documented():
    expected = ["clipsr-eval", "clipsr-eval sr", "clipsr-train", "clipsr-train clip", "clipsr-train liif"]
    assert documented(PAGE.read_text("utf-8")) == sorted(commands()) == expected


def test_the_page_shows_the_help_of_today():
    page = PAGE.read_text("utf-8")
    assert page == fill(page, commands()), "write it anew: python -m tests.training.test_docs --write"


def test_a_drift_is_noticed(monkeypatch):
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(cli, "_DATA_HELP", "something else")
    assert page != fill(page, commands())


@pytest.mark.parametrize("name", sorted(_recipes.RECIPES))
def test_every_recipe_is_described_by_its_figures(name):
    recipe = _recipes.RECIPES[name]
    (row,) = (line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {recipe.steps:,} | {recipe.batch_size} | {recipe.lr:.0e} |".replace("e-0", "e-") in row


if __name__ == "__main__":
    write_if_asked(PAGE, commands())
