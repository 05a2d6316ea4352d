"""docs/batch.md holds the `--help` of every command, word for word, and code that runs.

After a change of the command line, write it again: `python -m tests.client.batch.test_docs --write`.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import click
from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

from clipsr import ClassifyOptions
from clipsr.batch import LocalModels, classify_dataset
from clipsr.batch._command import cli

PAGE = Path(__file__).resolve().parents[3] / "docs" / "batch.md"


def commands() -> dict[str, str]:
    """The help of each command by its full name."""
    root = click.Context(cli, info_name="clipsr-batch", **cli.context_settings, terminal_width=HELP_WIDTH)
    below = cli.commands["classify"]
    return {
        "clipsr-batch": cli.get_help(root),
        "clipsr-batch classify": below.get_help(
            click.Context(below, info_name="classify", parent=root, terminal_width=HELP_WIDTH)
        ),
    }


def test_the_page_shows_the_help_of_today() -> None:
    page = PAGE.read_text("utf-8")
    assert (
        documented(page) == sorted(commands()) == ["clipsr-batch", *(f"clipsr-batch {name}" for name in cli.commands)]
    )
    assert page == fill(page, commands()), "write it again: python -m tests.client.batch.test_docs --write"


def test_the_calls_of_the_page_fit() -> None:
    """Their run on Ray is tested in test_batch.py; here, that every option that the page names exists."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    calls = {node.func.id: node for node in ast.walk(ast.parse(code)) if _is_named_call(node)}
    for called in (ClassifyOptions, LocalModels, classify_dataset):
        call = calls[called.__name__]
        inspect.signature(called).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def _is_named_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


if __name__ == "__main__":
    write_if_asked(PAGE, commands())
