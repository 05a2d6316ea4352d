"""clipsr-serve on small programs of tests/serving/fakes, started by the real launcher as real processes.

tests/integration starts the real ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.waiting import wait_until

from clipsr_serving.launcher._options import Endpoint, UpOptions
from clipsr_serving.launcher._state import StateDir

_FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that shares this one's packages, with the fake programs in its bin."""
    home = tmp_path / "environment"
    (home / "bin").mkdir(parents=True)
    prefix = Path(sys.prefix)
    shutil.copy(prefix / "pyvenv.cfg", home / "pyvenv.cfg")
    (home / "lib").symlink_to(prefix / "lib")
    (home / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    shutil.copy(_FAKES / "journal.py", home / "bin" / "journal.py")
    for name in ("tritonserver", "clipsr-gateway"):
        source = (_FAKES / f"{name}.py").read_text(encoding="utf-8")
        program = home / "bin" / name
        program.write_text(f"#!{home}/bin/python\n{source}", encoding="utf-8")
        program.chmod(0o755)
    return home


class Serve:
    """Runs clipsr-serve on the fake programs."""

    def __init__(self, environment, folder, repository):
        self.state_dir, self.journal = StateDir(folder / "state"), folder / "journal"
        self.journal.touch()
        self.variables: dict[str, str] = {}
        self._bin, self.repository = environment / "bin", repository

    def command(self, verb, *flags):
        return [str(self._bin / "python"), "-m", "clipsr_serving.launcher", verb, *flags]

    def up_flags(self):
        ports = [flag for name in ("grpc", "metrics") for flag in (f"--triton-{name}-port", "0")]
        triton = ["--triton", "path", "--triton-path", str(self._bin / "tritonserver")]
        return [*triton, *ports, "--listen", "127.0.0.1:0", "--repository", str(self.repository), "--timeout", "60"]

    def options(self):
        # Coverage and warnings of the outer run are none of the children's business.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        return {"env": inherited | {"FAKE_JOURNAL": str(self.journal)} | self.variables, "text": True}

    def run(self, verb, *flags):
        flags = [*self.up_flags(), *flags] if verb == "up" else flags
        command = self.command(verb, "--state-dir", str(self.state_dir.path), *flags)
        return subprocess.run(command, capture_output=True, timeout=120, **self.options())

    def start(self, *flags):
        command = self.command("up", "--state-dir", str(self.state_dir.path), *self.up_flags(), *flags)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, **self.options())
        wait_until(lambda: (self.state_dir.read() or process).__dict__.get("phase") == "ready", process)
        return process

    def _lines(self):
        return self.journal.read_text(encoding="utf-8").splitlines()

    def noted(self):
        return [line for line in self._lines() if not line.startswith(("flags ", "no_proxy ", "infer "))]

    def inferred(self):
        return [line.split()[1] for line in self._lines() if line.startswith("infer ")]

    def no_proxy(self):
        return next(line for line in self._lines() if line.startswith("no_proxy ")).split()[1].split(",")

    def triton_flags(self):
        return next(line for line in self._lines() if line.startswith("flags ")).split()[1:]

    def stub_pids(self):
        return [int(line.split()[1]) for line in self.noted() if line.startswith("stub ")]

    def order(self, mode):
        """What Triton does from now on or from its next start, as FAKE_TRITON."""
        Path(f"{self.journal}.triton").write_text(mode, encoding="utf-8")

    def wait_for_restart(self, process, restarts):
        def is_back():
            state = self.state_dir.read()
            return state is not None and state.phase == "ready" and state.restarts == restarts

        wait_until(is_back, process)
        return self.state_dir.read()


@pytest.fixture
def serve(environment, tmp_path, repository):
    """Stops at the end whatever still runs."""
    service = Serve(environment, tmp_path, repository)
    yield service
    down = service.run("down")
    assert down.returncode == 0, down.stderr


def make_up_options(repository, **changes):
    values = dict(
        repository=repository,
        listen=Endpoint(host="127.0.0.1", port=0),
        triton="auto",
        triton_path=None,
        triton_address="127.0.0.1",
        triton_http_port=None,
        triton_grpc_port=0,
        triton_metrics_port=0,
        profile=None,
        has_gateway=True,
        timeout_s=1,
        verbose=False,
    )
    return UpOptions(**values | changes)
