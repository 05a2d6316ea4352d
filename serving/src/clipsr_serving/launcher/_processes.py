"""Starts and stops child processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._state import Child, read_start_ticks

__all__ = ["ManagedProcess", "list_model_instances"]

# After SIGKILL the kernel needs no more than this to reap, even of a process with gigabytes mapped.
_KILL_TIMEOUT_S = 10

# Triton runs each instance of a Python model in a stub, and hands it the instance's name: MODEL_GROUP_INSTANCE.
_STUB = b"triton_python_backend_stub"
_INSTANCE_NAME = re.compile(rb"\w+_\d+_\d+")


def list_model_instances(triton_pid: int, *, proc: Path = Path("/proc")) -> frozenset[str]:
    """Names of the Python model instances whose processes live, for example ``similarity_0_0``.

    Args:
        triton_pid: the process that started them.
        proc: the process file system.
    """
    names = set()
    for folder in proc.glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            # Empty once the process has ended, also while its parent has not noticed.
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if parent == triton_pid and arguments[0].endswith(_STUB):
            names.update(argument.decode() for argument in arguments[1:] if _INSTANCE_NAME.fullmatch(argument))
    return frozenset(names)


class ManagedProcess:
    """A child in a session of its own, so that Ctrl-C reaches only the supervisor, which stops children in order."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it; stdout and stderr go to ``log``, the previous log to ``log.1``.

        Raises:
            LaunchError: the executable cannot be run.
        """
        self.name = name
        self.log = log
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        try:
            with log.open("wb") as output:
                self._popen = subprocess.Popen(
                    list(argv),
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"{argv[0]} cannot be started: {error.strerror}.") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def describe(self) -> Child:
        """What to remember of it."""
        return Child(name=self.name, pid=self._popen.pid, start_ticks=read_start_ticks(self._popen.pid) or 0)

    def read_log(self) -> str:
        """The log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, then after ``timeout_s`` SIGKILL to all its processes; returns when it is gone."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._popen.pid, signal.SIGKILL)
                self._popen.wait(_KILL_TIMEOUT_S)
