"""Starts and stops child processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._state import Child, read_start_ticks

# After SIGKILL the kernel needs no more than this to reap, even of a process with gigabytes mapped.
_KILL_TIMEOUT_S = 10
_KILL_POLL_S = 0.02
# Each look reads /proc once; a Triton that lost a model fails every request until it is seen.
_INSTANCE_POLL_S = 1.0

STATE_DIR_VARIABLE = "CLIPSR_SERVE_STATE_DIR"
"""Names the state folder in the environment of every child."""

# Triton runs each instance of a Python model in a stub, and hands it the instance's name: MODEL_GROUP_INSTANCE.
_STUB = b"triton_python_backend_stub"
_INSTANCE_NAME = re.compile(rb"\w+_\d+_\d+")


def list_model_instances(triton_pid: int, *, proc: Path = Path("/proc")) -> dict[str, bool]:
    """List the Python model instances whose processes live, for example `similarity_0_0`, and whether each is stopped.

    Args:
        triton_pid: the process that started them.
        proc: the process file system.
    """
    instances = {}
    for folder in proc.glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
            # Empty once the process has ended, also while its parent has not noticed.
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(parent) == triton_pid and arguments[0].endswith(_STUB):
            names = [argument.decode() for argument in arguments[1:] if _INSTANCE_NAME.fullmatch(argument)]
            instances.update(dict.fromkeys(names, state == "T"))
    return instances


def list_marked(state_dir: Path, *, proc: Path = Path("/proc")) -> list[int]:
    """List the children of a clipsr-serve with this state folder, the youngest first.

    Each carries the folder in its environment, so that it is found where the state file is gone, and leads a session.
    """
    mark = f"{STATE_DIR_VARIABLE}={state_dir}".encode()
    pids = []
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or it ended meanwhile
            session = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[3]
            if session == folder.name and mark in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return sorted(pids, reverse=True)


def end_session(session: int, *, proc: Path = Path("/proc")) -> None:
    """Kill every process of a session and wait until they are gone.

    A killed Triton leaves its model processes behind, which hold memory and shared memory. They become children of this
    process where it is the container's first; then nothing else would ever reap them.

    Args:
        session: the session's id, which is the pid of the process that began it.
        proc: the process file system.
    """
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while (members := _list_session(session, proc)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_KILL_POLL_S)


def _list_session(session: int, proc: Path) -> list[int]:
    """Process ids of a session's members, those included that have ended and wait to be reaped by this process."""
    pids = []
    for folder in proc.glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(encoding="utf-8")
        except OSError:  # it ended meanwhile
            continue
        # Source: proc(5), /proc/pid/stat, fields 3 (state), 4 (parent) and 6 (session).
        state, parent, _, its_session = text.rpartition(")")[2].split()[:4]
        is_alive = state != "Z" or int(parent) == os.getpid()
        if int(its_session) == session and is_alive:
            pids.append(int(folder.name))
    return pids


def _lower_priority(pid: int, niceness: int) -> None:
    """Lower the priority of a process and of what it starts later. Without effect where it is not allowed."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + niceness)
    # Where Linux groups processes by session, as on desktops, niceness counts within a group; groups have their own.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")


def previous_log(log: Path) -> Path:
    """Where a log goes when it is emptied."""
    return log.with_suffix(".log.1")


def limit_log(log: Path, max_bytes: int) -> None:
    """Empty a log once it is larger; a line that is written in this very moment may be lost.

    What it held becomes the previous log, where the disk has room for it.

    Raises:
        OSError: the log cannot be emptied, or was renamed: then the process writes on into the renamed file.
    """
    if log.stat().st_size > max_bytes:
        try:
            shutil.copyfile(log, previous_log(log))
        except OSError:
            previous_log(log).unlink(missing_ok=True)
        os.truncate(log, 0)


def _begin_log(log: Path) -> BinaryIO:
    """Open a new log for appending, so that it may be emptied meanwhile; nowhere if that is impossible."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(previous_log(log))
    try:
        return log.open("ab")
    except OSError:
        return Path(os.devnull).open("ab")


class ManagedProcess:
    """A child in a session of its own, so that Ctrl-C reaches only the supervisor, which stops children in order."""

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path, *, niceness: int = 0
    ) -> None:
        """Start it; stdout and stderr go to `log`, which becomes `previous_log` at the next start.

        Args:
            name: for people.
            argv: the command.
            environment: its environment variables.
            log: where its output goes.
            niceness: added to the niceness, 0 to 19: lower priority where processors are short.

        Raises:
            LaunchError: the executable cannot be run.
        """
        self.name = name
        self.log = log
        try:
            with _begin_log(log) as output:
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
        if niceness:
            _lower_priority(self._popen.pid, niceness)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    @property
    def previous_log(self) -> Path:
        """What `log` held before it was emptied."""
        return previous_log(self.log)

    def describe(self) -> Child:
        """Return what to remember of it."""
        return Child(name=self.name, pid=self._popen.pid, start_ticks=read_start_ticks(self._popen.pid) or 0)

    def read_log(self) -> str:
        """Return the log so far; nothing where it was renamed or removed."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, then after `timeout_s` SIGKILL; returns when it and all that it started are gone."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(_KILL_TIMEOUT_S)
        end_session(self._popen.pid)


class InstanceWatch:
    """Notices that Triton lost a model process, which Triton neither restarts nor reports as unreadiness.

    Args:
        patience_s: how long one may be stopped (SIGSTOP). Of several instances of a model the others go on, so that
            probes through Triton may never meet the one that is stopped.
    """

    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._pid: int | None = None
        self._instances: frozenset[str] = frozenset()
        self._stopped_since: dict[str, float] = {}
        self._next_look = 0.0

    def find_lost(self, triton: ManagedProcess) -> str | None:
        """Say which one is missing or stopped among those that were there when this Triton was first looked at.

        Args:
            triton: one that has loaded its models.

        Returns:
            the end of a sentence that begins with Triton's name; None if all are there.
        """
        now = time.monotonic()
        if triton.pid != self._pid:
            self._pid, self._instances = triton.pid, frozenset(list_model_instances(triton.pid))
            self._stopped_since = {}
        elif now >= self._next_look:
            self._next_look = now + _INSTANCE_POLL_S
            found = list_model_instances(triton.pid)
            if lost := self._instances - found.keys():
                names = ", ".join(sorted(lost))
                return f"lost its model process {names} (killed, perhaps for lack of memory or for an endless image)"
            stopped = [name for name, is_stopped in found.items() if is_stopped]
            self._stopped_since = {name: self._stopped_since.get(name, now) for name in stopped}
            hung = [name for name, since in self._stopped_since.items() if now - since >= self._patience_s]
            if hung:
                return f"has the stopped model process {', '.join(sorted(hung))} (SIGSTOP)"
        return None
