"""What a running clipsr-serve leaves for `down`, `status` and `logs`: one folder a service."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clipsr_serving.errors import LaunchError

LOG_NAMES = ("serve", "triton", "gateway")
_STATE_FILE = "state.json"
_LOCK_FILE = "lock"


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that was started; the start time tells it from a later one with the same pid."""

    name: str
    pid: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """True while that very process runs."""
        return read_start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True, kw_only=True)
class State:
    """What is running.

    Attributes:
        pid: the supervising clipsr-serve.
        phase: `starting`, `ready`, `restarting` (a process ended, or its successor is not ready) or `stopping`.
        url: the gateway's HOST:PORT; None without a gateway.
        triton: name of the port (`http`, `grpc`, `metrics`) to HOST:PORT.
        triton_kind: `embedded`, `path` or `docker`.
        profile: the model configuration's name; None for the default.
        repository: the model repository.
        children: Triton and gateway; a process that ended is missing until its successor has started.
        restarts: how often each was started again.
        answered_s: when the last probe of each was answered, in seconds of this machine's monotonic clock; 0 where the
            last probe was not.
        probed_for_s: how long an answer counts.
    """

    pid: int
    phase: str
    url: str | None
    triton: dict[str, str]
    triton_kind: str
    profile: str | None
    repository: str
    children: tuple[Child, ...] = field(default=())
    restarts: dict[str, int] = field(default_factory=dict)
    answered_s: dict[str, float] = field(default_factory=dict)
    probed_for_s: float = 0.0

    def is_ready(self, now_s: float) -> bool:
        """Whether all answered their last probe, and not too long ago: a hung supervisor asks no more."""
        fresh = all(now_s - answered_s <= self.probed_for_s for answered_s in self.answered_s.values())
        return self.phase == "ready" and fresh


def read_start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None if it does not run (a zombie counts as gone)."""
    fields = _read_stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def read_parent(pid: int) -> int | None:
    """Return the id of a process's parent; None if it does not run."""
    fields = _read_stat(pid)
    return None if fields is None else int(fields[1])


def _read_stat(pid: int) -> list[str] | None:
    """Return what follows a process's name.

    Source: proc(5), /proc/pid/stat, from field 3 (state) on; 4 is the parent, 22 the start time.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    # The command's name, in parentheses, may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()


def find_state_dir(explicit: Path | None, *, name: str, environment: dict[str, str]) -> Path:
    """`--state-dir` if given, else `$XDG_STATE_HOME/clipsr/NAME` (that variable's default: `~/.local/state`)."""
    if explicit is not None:
        return explicit.absolute()
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "clipsr" / name


class StateDir:
    """The folder, and the lock that says whether a supervisor lives.

    The lock goes with its process however that ends, so a stale state file is told from a live one without guessing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, name: str) -> Path:
        """Path of a log."""
        return self.path / f"{name}.log"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            LaunchError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LaunchError(
                f"{self.path} cannot be written ({error.strerror}); choose another --state-dir."
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LaunchError(f"clipsr-serve is already running {self._describe()}.") from error
            yield
        finally:
            os.close(descriptor)

    def _describe(self) -> str:
        state = self.read()
        who = "" if state is None else f" (pid {state.pid}, {state.url or state.triton.get('grpc')})"
        return f"in {self.path}{who}; stop it with `clipsr-serve down`, or give this one another --name"

    def is_locked(self) -> bool:
        """Return True while a supervisor lives."""
        try:
            descriptor = os.open(self.path / _LOCK_FILE, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(descriptor)

    def write(self, state: State) -> None:
        """Replace the state file in one step, also where the folder has gone meanwhile.

        Raises:
            OSError: it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f"{_STATE_FILE}.new"
        temporary.write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
        temporary.replace(self.path / _STATE_FILE)

    def read(self) -> State | None:
        """Return what the last supervisor wrote; None if there is nothing or it is unreadable."""
        try:
            document = json.loads((self.path / _STATE_FILE).read_text(encoding="utf-8"))
            document["children"] = tuple(Child(**child) for child in document["children"])
            return State(**document)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def clear(self) -> None:
        """Forget the state; logs stay."""
        with contextlib.suppress(OSError):
            (self.path / _STATE_FILE).unlink(missing_ok=True)
