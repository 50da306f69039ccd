"""One connection to an engine: a request goes out, the pieces of its answer come back to whoever asked."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from nebula_core.gateway.data_path.answer_reader import AnswerReader, BadAnswerError
from nebula_core.gateway.data_path.http import JOIN_BYTES
from nebula_core.gateway.data_path.outbox import BatchedTransport

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.pool import Endpoint

logger = logging.getLogger("nebula.gateway")


class Receiver(ABC):
    """Whoever has asked, and gets the answer."""

    __slots__ = ()

    @abstractmethod
    def received(self, body: bytes, complete: bool) -> None:
        """The next piece of the answer has come, maybe empty, maybe the last."""

    @abstractmethod
    def lost(self, failure: Literal["reset"]) -> None:
        """The connection has ended before the answer did."""

    @abstractmethod
    def crash(self) -> None:
        """A fault of the gateway's own, which has been logged."""


STREAM_BYTES = 16 * 1024
"""Of a stream at most so much is read at a time, for the last piece stays in memory while its client does not read, measured: 221 KiB of
the worker for each of 1,000 clients that read nothing were 48 KiB then. Of another answer more is read, for it ends."""
_answers = memoryview(bytearray(8 * STREAM_BYTES))
_streams = _answers[:STREAM_BYTES]
"""All connections read into the same memory: what came is taken from it before the next one reads."""


class EngineConnection(asyncio.BufferedProtocol):
    """An HTTP/1.1 client connection that carries one request at a time and is kept for the next."""

    __slots__ = ("_receiver", "answer", "answered", "endpoint", "idle_since", "reused", "transport")

    transport: BatchedTransport

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.answer = AnswerReader(endpoint.known_heads)
        self.answered = False
        """Any byte has come back for the present request."""
        self.reused = False
        """It has carried a request before, so that the engine may be about to close it."""
        self.idle_since = 0.0
        self._receiver: Receiver | None = None

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        """Send a request and hand what comes back to `receiver`."""
        self._receiver = receiver
        if len(body) <= JOIN_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def release(self, now: float) -> None:
        """The request has its answer: keep the connection if it can carry another."""
        self._receiver = None
        answer, transport = self.answer, self.transport
        unsent = transport.get_write_buffer_size()  # the engine has answered without reading the whole request
        head = answer.head
        kept = head is not None and head.keep_alive and not (answer.surplus or unsent or transport.is_closing())
        if not kept or not self.endpoint.keep(self):
            transport.abort()
            return
        transport.resume_reading()
        self.idle_since, self.reused, self.answered = now, True, False
        answer.reset()

    def close(self) -> None:
        """Close it at once: an engine takes that as the end of the request."""
        self._receiver = None
        self.transport.abort()

    # --- called by the event loop

    def connection_made(self, transport: Any) -> None:
        """The engine has accepted."""
        self.transport = BatchedTransport(transport, self.endpoint.outbox)
        self.endpoint.open += 1

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes shall be put."""
        head = self.answer.head
        return _streams if head is not None and head.streams else _answers

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of an answer."""
        receiver = self._receiver
        if receiver is None:  # nothing was asked
            self.transport.abort()
            return
        self.answered = True
        try:
            body = self.answer.feed(bytes(_answers[:nbytes]))
            receiver.received(body, self.answer.complete)
        except BadAnswerError as error:
            logger.warning("%s sent what is no answer: %s", self.endpoint.url, error)
            self.close()
            receiver.lost("reset")
        except Exception:  # a fault here must cost one request, and neither its charge nor the worker
            logger.exception("an answer of %s could not be passed on", self.endpoint.url)
            receiver.crash()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, whoever ended it."""
        self.endpoint.lost(self)
        self.answer.close()
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        try:
            if exc is None and self.answer.ends_with_connection:
                receiver.received(b"", True)
            else:
                receiver.lost("reset")
        except Exception:  # as above
            logger.exception("the end of a connection to %s could not be handled", self.endpoint.url)
            receiver.crash()
