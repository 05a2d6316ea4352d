"""Asks for many hashes at once, whoever wants to know: one query costs 4 ms and more, however many hashes it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

# Hashes of one query.
_MAX_HASHES = 256

# How long the first question waits for others. Images of a stream come in bursts, whenever a commit made room for more.
_MAX_WAIT_S = 0.05

# Questions that wait for no others: as many as one commit answers.
_MANY = 64


class MembershipBatcher:
    """Collects questions for a moment, and asks them together.

    Belongs to one event loop.

    Args:
        present: returns those of some hashes that are in the library.
    """

    def __init__(self, present: Callable[[Sequence[str]], Awaitable[set[str]]]) -> None:
        self._present = present
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._is_full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def is_present(self, sha256: str) -> bool:
        """Say whether an image is in the library.

        Raises:
            LibraryError: the library or its storage is gone.
        """
        answer = self._waiting.get(sha256)
        if answer is None:
            answer = self._waiting[sha256] = asyncio.get_running_loop().create_future()
            if len(self._waiting) >= _MANY:
                self._is_full.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._wait_for_more()
                asked = dict(list(self._waiting.items())[:_MAX_HASHES])
                for sha256 in asked:
                    del self._waiting[sha256]
                await self._ask(asked)
        finally:
            self._task = None

    async def _wait_for_more(self) -> None:
        self._is_full.clear()
        if len(self._waiting) < _MANY:
            try:
                await asyncio.wait_for(self._is_full.wait(), _MAX_WAIT_S)
            except asyncio.TimeoutError:
                return

    async def _ask(self, asked: dict[str, asyncio.Future[bool]]) -> None:
        try:
            present = await self._present(list(asked))
        except Exception as error:  # whatever it is, it is the answer for each of them
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # retrieved: nobody may be waiting any more
            return
        for sha256, answer in asked.items():
            answer.set_result(sha256 in present)
