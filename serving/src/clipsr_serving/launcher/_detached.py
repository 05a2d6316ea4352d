"""Starts a supervisor in the background, and stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._state import State, StateDir, read_parent, read_start_ticks
from clipsr_serving.launcher._supervisor.processes import end_session, list_marked
from clipsr_serving.launcher._triton.command import remove_shared_memory

_POLL_S = 0.2
# The supervisor itself gives up after --timeout; this much later something is wrong with the supervisor.
_GRACE_S = 60
# Twice the supervisor's own patience with one child.
_STOP_TIMEOUT_S = 90
_PREFIX = "clipsr-serve: "


def start_detached(arguments: Sequence[str], state_dir: StateDir, *, timeout_s: float) -> State:
    """Run `clipsr-serve ARGUMENTS` in the background and wait until it is ready.

    Ctrl-C while waiting stops it again.

    Raises:
        LaunchError: it ended before it was ready; the text is what it said.
    """
    with state_dir.lock():
        pass  # "already running" is said here at once, not by way of the log
    log = state_dir.log("serve")
    log.unlink(missing_ok=True)
    with log.open("ab") as output:  # appending, so that it may be emptied meanwhile
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "clipsr_serving.launcher", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s + _GRACE_S
    try:
        while time.monotonic() < deadline:
            state = state_dir.read()
            if state is not None and state.pid == supervisor.pid and state.phase == "ready":
                return state
            if supervisor.poll() is not None:
                raise LaunchError(_last_words(log.read_text(encoding="utf-8", errors="replace")))
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait()
        raise
    supervisor.terminate()
    raise LaunchError(f"clipsr-serve did not become ready; see {log}.")


def _last_words(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    spoken = [line for line in lines if line.startswith(_PREFIX)]
    return (spoken or lines or ["it ended without a word"])[-1].removeprefix(_PREFIX)


def stop_service(state_dir: StateDir) -> str:
    """Stop the service, or what a killed supervisor left of it.

    Returns:
        what was done, as a sentence.

    Raises:
        LaunchError: it does not end.
    """
    state = state_dir.read()
    if state_dir.is_locked() and state is None and not list_marked(state_dir.path):
        raise LaunchError("clipsr-serve is just starting; try again in a moment.")
    supervisor = state.pid if state is not None and state_dir.is_locked() else _find_supervisor(state_dir)
    if supervisor is None:
        return _stop_orphans(state, state_dir)
    started = read_start_ticks(supervisor)
    os.kill(supervisor, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while read_start_ticks(supervisor) == started:
        if time.monotonic() > deadline:
            raise LaunchError(f"clipsr-serve (pid {supervisor}) does not stop; end it with `kill -9 {supervisor}`.")
        time.sleep(_POLL_S)
    return f"stopped (pid {supervisor})"


def _find_supervisor(state_dir: StateDir) -> int | None:
    """Find the clipsr-serve whose state folder was removed, as the parent of a child that carries the folder's name."""
    marked = list_marked(state_dir.path)
    for parent in {read_parent(pid) for pid in marked} - {None, *marked}:
        with contextlib.suppress(OSError):
            if parent and b"clipsr" in Path(f"/proc/{parent}/cmdline").read_bytes():
                return parent
    return None


def _stop_orphans(state: State | None, state_dir: StateDir) -> str:
    known = {child.pid: child.name for child in reversed(state.children if state else ()) if child.is_alive}
    orphans = {pid: known.get(pid, "a process") for pid in [*known, *list_marked(state_dir.path)]}
    if state is None and not orphans:
        return "nothing is running"
    for pid in orphans:
        _stop_session(pid)
    remove_shared_memory(state_dir.path)
    state_dir.clear()
    names = " and ".join(f"{name} (pid {pid})" for pid, name in orphans.items()) or "nothing but a stale state file"
    return f"clipsr-serve had been killed; cleaned up {names}"


def _stop_session(pid: int) -> None:
    started = read_start_ticks(pid)
    if started is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S / 3
    while read_start_ticks(pid) == started and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    end_session(pid)
