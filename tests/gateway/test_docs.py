"""docs/operations.md holds the `--help` of `clipsr-gateway`, word for word, and names every metric.

After a change of the command line, write it anew: `python -m tests.gateway.test_docs --write`.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from unittest import mock

from tests.help_pages import HELP_WIDTH, documented, fill, write_if_asked

from clipsr_gateway import cli
from clipsr_gateway._access import keys_cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def commands() -> dict[str, str]:
    """The help of each command, by its full name."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(HELP_WIDTH + 2)}):
        keys = keys_cli.build_keys_parser()
        (group,) = (action for action in keys._actions if isinstance(action, argparse._SubParsersAction))
        helps = {f"clipsr-gateway keys {name}": command.format_help() for name, command in group.choices.items()}
        return {"clipsr-gateway": cli.build_parser().format_help(), **helps}


def test_every_command_is_documented():
    assert documented(PAGE.read_text("utf-8")) == sorted(commands())


def test_the_page_shows_the_help_of_today():
    page = PAGE.read_text("utf-8")
    assert page == fill(page, commands()), "write it anew: python -m tests.gateway.test_docs --write"


def test_a_drift_is_noticed(monkeypatch):
    page = PAGE.read_text("utf-8")
    monkeypatch.setattr(keys_cli, "_EPILOG", "something else")
    assert page != fill(page, commands())


async def test_the_page_names_every_metric_and_no_other(start):
    one = await start()
    families = {family.name for family in one.gateway.operations.metrics.registry.collect()}
    page = PAGE.read_text("utf-8")
    named = set(re.findall(r"^\| `(clipsr_gateway_\w+)`", page, re.MULTILINE))
    assert {name.removesuffix("_total").removesuffix("_info") for name in named} == {
        name for name in families if name.startswith("clipsr_gateway")
    }


if __name__ == "__main__":
    write_if_asked(PAGE, commands())
