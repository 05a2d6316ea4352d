"""Asks for many hashes at once, whoever wants to know: one query costs milliseconds, however many hashes it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Lookups"]

# Hashes of one query.
_MAX_HASHES = 256


class Lookups:
    """Collects questions while one is being answered, and asks them together.

    Belongs to one event loop.

    Args:
        present: returns those of some hashes that are in the library.
    """

    def __init__(self, present: Callable[[Sequence[str]], Awaitable[set[str]]]) -> None:
        self._present = present
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._task: asyncio.Task[None] | None = None

    async def is_present(self, sha256: str) -> bool:
        """Says whether an image is in the library.

        Raises:
            LibraryError: the library or its storage is gone.
        """
        answer = self._waiting.get(sha256)
        if answer is None:
            answer = self._waiting[sha256] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        try:
            while self._waiting:
                asked = dict(list(self._waiting.items())[:_MAX_HASHES])
                for sha256 in asked:
                    del self._waiting[sha256]
                await self._ask(asked)
        finally:
            self._task = None

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
