"""Ctrl-C while a command is still importing its package, which takes seconds: one line, and exit code 130."""

from __future__ import annotations

import importlib
import inspect
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def scripts() -> dict[str, tuple[str, str]]:
    """Module and function of every command."""
    found: dict[str, tuple[str, str]] = {}
    for room in ("client", "gateway", "serving", "training", "export"):
        project = tomllib.loads((ROOT / room / "pyproject.toml").read_text("utf-8"))
        for command, target in project["project"]["scripts"].items():
            module, _, function = target.partition(":")
            assert module in project["tool"]["setuptools"]["py-modules"]
            found[command] = (module, function)
    return found


def run(command: str, before: str) -> subprocess.CompletedProcess[str]:
    """Run what pip writes for a command, after other statements."""
    module, function = scripts()[command]
    code = f"import os, signal, sys\n{before}\nfrom {module} import {function}\nsys.exit({function}())"
    return subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False, timeout=120
    )


# Sends a signal at the first import of the package itself, and counts on nothing that the package does.
INTERRUPT = """
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("clipsr") and not name.endswith("_main"):
            os.kill(os.getpid(), signal.{name})
            {then}
sys.meta_path.insert(0, Interrupting())
"""


def test_there_are_commands():
    names = ["batch", "client", "eval", "export", "gateway", "serve", "train"]
    assert sorted(scripts()) == [f"clipsr-{name}" for name in names]


@pytest.mark.parametrize("command", sorted(scripts()))
def test_an_interrupted_import_ends_in_one_line(command):
    ended = run(command, INTERRUPT.format(name="SIGINT", then=""))
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", f"{command}: interrupted\n")


@pytest.mark.parametrize("command", ["clipsr-eval", "clipsr-export", "clipsr-train"])
def test_sigterm_ends_an_import_as_it_ends_the_command_later(command):
    ended = run(command, INTERRUPT.format(name="SIGTERM", then=""))
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", f"{command}: interrupted\n")


def test_an_ignored_interrupt_stays_ignored():
    """As in a script's background jobs and under nohup."""
    before = "signal.signal(signal.SIGINT, signal.SIG_IGN)" + INTERRUPT.format(name="SIGINT", then="sys.exit(7)")
    assert run("clipsr-serve", before).returncode == 7


def test_an_interrupt_that_main_lets_through_is_reported(monkeypatch, capfd):
    module = importlib.import_module("clipsr_serving_main")

    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipsr_serving.launcher.main", interrupted)
    assert module.serve() == 130
    assert capfd.readouterr().err == "clipsr-serve: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_all_rooms_run_their_commands_alike():
    modules = {importlib.import_module(module) for module, _ in scripts().values()}
    assert len(modules) == 5
    assert len({inspect.getsource(module._run) for module in modules}) == 1
    assert len({inspect.getsource(module._report_interrupt) for module in modules}) == 1
