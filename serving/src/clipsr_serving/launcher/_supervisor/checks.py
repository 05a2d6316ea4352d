"""Runs slow probes in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from clipsr_serving.errors import LaunchError


class BackgroundCheck:
    """A question that may take seconds, asked again and again on a thread, so that a signal or a death is seen at once.

    Args:
        ask: the question; a LaunchError counts as no.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._answer: SimpleQueue[bool] | None = None
        self._objection: str | None = None

    @property
    def objection(self) -> str | None:
        """What the last LaunchError said."""
        return self._objection

    def poll(self) -> bool | None:
        """Return the answer to a question that was asked after the last `reset`; None until there is one."""
        if self._answer is None:
            self._answer = SimpleQueue()
            threading.Thread(target=self._run, args=(self._answer,), daemon=True).start()
        try:
            is_yes = self._answer.get_nowait()
        except Empty:
            return None
        self._answer = None
        return is_yes

    def reset(self) -> None:
        """Ignore the answer to a question that is still open."""
        self._answer = None

    def _run(self, answer: SimpleQueue[bool]) -> None:
        is_yes = False
        try:
            is_yes = self._ask()
        except LaunchError as error:
            self._objection = str(error)
        finally:
            answer.put(is_yes)
