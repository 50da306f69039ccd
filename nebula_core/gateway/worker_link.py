"""The control side's end of the link to one worker."""

from __future__ import annotations

import asyncio

from nebula_core.gateway import link

MOST_UNSENT = 64 * 1024 * 1024
"""Bytes that a worker may leave unread before it is cut off; it connects again and gets the whole table."""

Process = tuple[str, int, int]
"""A worker's process: generation, slot, pid."""


class WorkerLink:
    """One connected worker."""

    def __init__(self, hello: link.Hello, writer: asyncio.StreamWriter) -> None:
        self.hello = hello
        self.applied = False
        self._writer = writer

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

    def close(self) -> None:
        """End the connection; what is queued is still sent."""
        self._writer.close()
