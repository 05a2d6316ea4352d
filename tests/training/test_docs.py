"""docs/training.md and docs/evaluation.md hold the `--help` of every command of the training room, word for word.

After a change of a command line, write it anew: `python -m tests.training.test_docs --write`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from unittest import mock

import pytest

from clipsr_training._cli import evaluate as eval_cli
from clipsr_training._cli import train as cli
from clipsr_training.liif import _recipes
from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "training.md"
CLI_OF_PAGE = {PAGE: cli, DOCS / "evaluation.md": eval_cli}


def commands(page: Path) -> dict[str, str]:
    """The help of each command that a page documents, by its full name."""
    # argparse wraps at two columns less than the terminal has, and only the environment can say how many that is.
    with mock.patch.dict(os.environ, {"COLUMNS": str(HELP_WIDTH + 2)}):
        parser = CLI_OF_PAGE[page].build_parser()
        (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        helps = {parser.prog: parser.format_help()}
        return helps | {command.prog: command.format_help() for command in group.choices.values()}


def test_every_command_is_documented():
    names = {page.name: documented(page.read_text("utf-8")) for page in CLI_OF_PAGE}
    assert names == {page.name: sorted(commands(page)) for page in CLI_OF_PAGE}
    evaluations = [
        "",
        " degraded",
        " drawings",
        " experiment",
        " image",
        " linear-probe",
        " lowres",
        " none-of-these",
        " restore",
        " routes",
        " sr",
        " zeroshot",
    ]
    assert names["evaluation.md"] == [f"clipsr-eval{name}" for name in evaluations]
    assert names["training.md"] == [
        f"clipsr-train{name}"
        for name in (
            *("", " adapt", " average", " clip", " controller", " draw", " edit", " exchange-text", " import-lite0"),
            *(" liif", " restorer"),
            " text",
            " tower",
        )
    ]


@pytest.mark.parametrize("path", CLI_OF_PAGE, ids=lambda path: path.name)
def test_the_page_shows_the_help_of_today(path):
    page = path.read_text("utf-8")
    assert page == fill(page, commands(path)), "write it anew: python -m tests.training.test_docs --write"


def test_a_drift_is_noticed(monkeypatch):
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(cli, "_DATA_HELP", "something else")
    assert page != fill(page, commands(PAGE))


@pytest.mark.parametrize("name", sorted(_recipes.RECIPES))
def test_every_recipe_is_described_by_its_figures(name):
    recipe = _recipes.RECIPES[name]
    (row,) = (line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {recipe.steps:,} | {recipe.batch_size} | {recipe.lr:.0e} |".replace("e-0", "e-") in row


if __name__ == "__main__":
    for path in CLI_OF_PAGE:
        write_if_asked(path, commands(path))
