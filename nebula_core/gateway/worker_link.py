"""The control side's end of the link to one worker."""

from __future__ import annotations

import asyncio
from itertools import count

from nebula_core.gateway import link
from nebula_core.interfaces import Explanation

MOST_UNSENT = 64 * 1024 * 1024
"""Bytes that a worker may leave unread before it is cut off; it connects again and gets the whole table."""

ANSWER_S = 1.0
"""How long a worker may take to answer a question."""

Process = tuple[str, int, int]
"""A worker's process: generation, slot, pid."""


class WorkerLink:
    """One connected worker."""

    def __init__(self, hello: link.Hello, writer: asyncio.StreamWriter) -> None:
        self.hello = hello
        self.applied = False
        self._writer = writer
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[tuple[Explanation, ...] | None]] = {}

    @property
    def process(self) -> Process:
        """Which process this is."""
        return self.hello.generation, self.hello.slot, self.hello.pid

    def send(self, message: link.Down) -> None:
        """Queue a message; a worker that does not read is cut off instead of filling our memory."""
        if self._writer.transport.get_write_buffer_size() > MOST_UNSENT:
            self._writer.transport.abort()
        elif not self._writer.is_closing():
            link.write(self._writer, message)

    async def explain(self, request_id: str) -> tuple[Explanation, ...] | None:
        """What its strategies know of their decisions on a request; `None` if it does not answer in time, or leaves."""
        number = next(self._numbers)
        answer: asyncio.Future[tuple[Explanation, ...] | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self.send(link.Explain(number, request_id))
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def answered(self, message: link.Explanations) -> None:
        """Its answer has come; one that nobody waits for any more is dropped."""
        if (answer := self._asked.get(message.number)) is not None and not answer.done():
            answer.set_result(message.decisions)

    def left(self) -> None:
        """Its connection has ended, and with it the hope for answers."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)

    def close(self) -> None:
        """End the connection; what is queued is still sent."""
        self._writer.close()
