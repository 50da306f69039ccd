"""What connections write waits until the event loop has read what has come, and then goes out together.

A write wakes its reader, and one that follows at once finds it still awake; reading and writing in turns wakes it each time. Measured
side by side, under load: 14 to 18 % less CPU for a small JSON request, 21 to 25 % for one of 32 KiB, 3 to 15 % for events one by one,
nothing for a burst of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from nebula_core.gateway.data_path.transport import Transport

logger = logging.getLogger("nebula.gateway")

AT_ONCE_BYTES = 8 * 1024
"""With so much to write, a connection does not wait for the others: it has to learn in time that nobody reads what it writes. Half of what
is read of a stream at a time, so that its next piece is not read before; with twice as much, a stalled reader cost 82 KiB and not 52."""


class Outbox:
    """Connections that have something to write when the event loop has read what has come."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[BatchedTransport] = []

    def add(self, transport: BatchedTransport) -> None:
        """Have a transport flushed then."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(transport)

    def flush(self) -> None:
        """Have all of them write."""
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            try:
                transport.flush()
            except Exception:  # a fault here must cost one connection, and not the writes of all
                logger.exception("the connection with %s could not be written to", transport.get_extra_info("peername"))
                with contextlib.suppress(Exception):
                    transport.abort()


class BatchedTransport:
    """A connection's transport whose writes wait in an outbox. Otherwise as `Transport`."""

    __slots__ = ("_outbox", "_parts", "_size", "_transport")

    def __init__(self, transport: Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Have bytes written after those before them: soon, or at once if they are many."""
        size = self._size + len(data)
        if size < AT_ONCE_BYTES and not self._parts:
            self._outbox.add(self)
        self._parts.append(data)
        self._size = size
        if size >= AT_ONCE_BYTES:
            self.flush()

    def writelines(self, parts: Sequence[bytes]) -> None:
        """Have a message in parts written soon, however long: a request, or the first piece of an answer, and no other follows soon."""
        if not self._parts:
            self._outbox.add(self)
        for part in parts:
            self._parts.append(part)
            self._size += len(part)

    def flush(self) -> None:
        """Write what waits."""
        parts = self._parts
        if not parts:
            return
        self._parts, self._size = [], 0
        if self._transport.is_closing():  # it was lost in the meantime, for what closes it in order flushes it first
            return
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def write_eof(self) -> None:
        """Write what waits, and end this direction."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write what waits, and end the connection."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """End the connection at once, whatever waits."""
        self._parts, self._size = [], 0
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._size + self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int) -> None:
        """Bytes that may stay unwritten, beside what waits here, before the protocol is told to pause."""
        self._transport.set_write_buffer_limits(high=high)

    def pause_reading(self) -> None:
        """Hand nothing to the protocol."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Hand on again what comes."""
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str) -> Any:
        """What is known of the connection."""
        return self._transport.get_extra_info(name)
