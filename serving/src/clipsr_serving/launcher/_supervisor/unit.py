"""One of the service's processes, started again when it ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._state import Child
from clipsr_serving.launcher._supervisor.checks import BackgroundCheck
from clipsr_serving.launcher._supervisor.probes import LivenessProbe, ProbePolicy
from clipsr_serving.launcher._supervisor.processes import ManagedProcess
from clipsr_serving.launcher._supervisor.restarts import Backoff, RestartPolicy

# For a process that no longer works, before it is killed: callers wait for its successor.
_BROKEN_STOP_TIMEOUT_S = 0.5
_CRASHES = tuple(-number for number in (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV))


class Unit:
    """A process, what proves that it works, and when it is started again.

    After `start` and `accept`, `tick` does what is due and never waits, except for the end of a broken process.

    Args:
        name: `triton` or `gateway`.
        spawn: starts the process.
        is_ready: asks whether it works; may take seconds.
        is_alive: asks, while it is ready, whether it still answers; may take seconds.
        find_fault: says what is wrong with a process that still runs, as the end of a sentence; None if nothing.
        explain_end: says how a process that ended did so, as the end of a sentence.
        clean: removes what the last process left on the machine.
        policy: how often and how soon to restart.
        probe: how often `is_alive` is asked, and how many failures end the process.
        timeout_s: how long a restarted process may take until it works.
        say: tells the user one line.
    """

    def __init__(
        self,
        name: str,
        *,
        spawn: Callable[[], ManagedProcess],
        is_ready: Callable[[], bool],
        is_alive: Callable[[], bool],
        find_fault: Callable[[ManagedProcess], str | None],
        explain_end: Callable[[ManagedProcess], str],
        clean: Callable[[], None],
        policy: RestartPolicy,
        probe: ProbePolicy,
        timeout_s: float,
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self._spawn = spawn
        self._is_ready = is_ready
        self._check = BackgroundCheck(is_ready)
        self._liveness = LivenessProbe(is_alive, probe)
        self._find_fault = find_fault
        self._explain_end = explain_end
        self._clean = clean
        self._backoff = Backoff(policy)
        self._timeout_s = timeout_s
        self._say = say
        self._process: ManagedProcess | None = None
        self._ready_since: float | None = None
        self._has_worked = False  # since its start: from then on it answers, also while it has to wait for another
        self._deadline = 0.0
        self._next_start = 0.0

    @property
    def is_ready(self) -> bool:
        """True while the running process is known to work."""
        return self._ready_since is not None

    @property
    def process(self) -> ManagedProcess | None:
        """The running process; None before `start` and between two."""
        return self._process

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return self._backoff.total

    @property
    def answered_s(self) -> float:
        """When it answered last, on the monotonic clock; 0 if it is not ready or failed its last probe."""
        return self._liveness.answered_s if self.is_ready else 0.0

    def describe(self) -> tuple[Child, ...]:
        """Return what to remember of the running process; nothing between two."""
        return () if self._process is None else (self._process.describe(),)

    def start(self) -> None:
        """Start it.

        Raises:
            LaunchError: the executable cannot be run.
        """
        self._process = self._spawn()
        self._has_worked = False
        self.mark_unready()

    def probe(self) -> bool:
        """Ask whether it works; may take seconds."""
        return self._is_ready()

    def mark_ready(self) -> None:
        """Take it for working: something else has proven it."""
        self._ready_since = time.monotonic()
        self._has_worked = True
        self._liveness.reset()

    def mark_unready(self) -> None:
        """Ask again whether it works, because what it depends on has changed."""
        self._ready_since = None
        self._check.reset()
        self._deadline = time.monotonic() + self._timeout_s

    def raise_if_ended(self) -> None:
        """Say why it ended.

        Raises:
            LaunchError: it has ended.
        """
        if self._process is not None and self._process.exit_code is not None:
            raise LaunchError(f"{self.name} {self._explain_end(self._process)}. The whole log is {self._process.log}")

    @property
    def has_crashed(self) -> bool:
        """True if it ended by a fault of its own code, which is not an error that it could report."""
        return self._process is not None and self._process.exit_code in _CRASHES

    def start_after_crash(self) -> None:
        """Restart it immediately, for a crash that may not happen again.

        Raises:
            LaunchError: the executable cannot be run.
        """
        if self._process is not None:
            self._say(f"{self.name} {self._explain_end(self._process)}; starting it once more")
        self.stop(_BROKEN_STOP_TIMEOUT_S)
        self.start()

    def tick(self, *, can_work: bool = True) -> None:
        """Do what is due: notice its end, start it again, ask whether it works.

        Args:
            can_work: False while what it depends on is unavailable: it need not work, and its timeout does not run.

        Raises:
            LaunchError: it has been restarted too often.
        """
        now = time.monotonic()
        process = self._process
        if process is None:
            if now >= self._next_start:
                self._start_again()
        elif process.exit_code is not None:
            self._fail(self._explain_end(process), process)
        elif self._has_worked and (fault := self._find_fault(process) or self._liveness.find_fault()):
            self._fail(fault, process)
        elif not can_work:
            self.mark_unready()
        elif self._ready_since is not None:
            self._backoff.record_health(now - self._ready_since)
        elif self._check.poll():
            self.mark_ready()
        elif now > self._deadline:
            why = f" ({self._check.objection})" if self._check.objection else ""
            self._fail(f"does not work {self._timeout_s:g} s after its start{why}", process)

    def stop(self, timeout_s: float) -> None:
        """Stop it for good, SIGTERM first, and remove what it leaves."""
        if self._process is not None:
            self._process.stop(timeout_s)
            self._clean()
        self._process = None
        self._ready_since = None

    def _start_again(self) -> None:
        try:
            self.start()
        except LaunchError as error:  # the executable is gone, or there are too many processes
            self._schedule(f"cannot be started: {error}")

    def _fail(self, reason: str, process: ManagedProcess) -> None:
        self.stop(_BROKEN_STOP_TIMEOUT_S)
        self._schedule(reason, process)

    def _schedule(self, reason: str, process: ManagedProcess | None = None) -> None:
        restarts = self._backoff.in_a_row
        delay_s = self._backoff.record_failure()
        if delay_s is None:
            log = "" if process is None else f" The whole log is {process.log}"
            raise LaunchError(
                f"{self.name} {reason}. It is not started again after {restarts} restarts in a row "
                f"(--max-restarts).{log}"
            )
        self._next_start = time.monotonic() + delay_s
        log = "" if process is None else f"; its log will be {process.previous_log}"
        self._say(f"{self.name} {reason}; restart {restarts + 1} in {delay_s:g} s{log}")
