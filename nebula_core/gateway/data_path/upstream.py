"""One connection to an engine: a request goes out, the pieces of its answer come back to the exchange that asked."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from nebula_core.gateway.data_path.answer_reader import AnswerReader, BadAnswerError
from nebula_core.gateway.data_path.http import JOIN_BYTES

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.pool import Endpoint
    from nebula_core.gateway.data_path.relay import Exchange

logger = logging.getLogger("nebula.gateway")


class EngineConnection(asyncio.Protocol):
    """An HTTP/1.1 client connection that carries one exchange at a time and is kept for the next."""

    __slots__ = ("_exchange", "answer", "answered", "endpoint", "idle_since", "reused", "transport")

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.answer = AnswerReader()
        self.answered = False
        """Any byte has come back for the present request."""
        self.reused = False
        """It has carried an exchange before, so that the engine may be about to close it."""
        self.idle_since = 0.0
        self._exchange: Exchange | None = None

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Send a request and hand what comes back to `exchange`."""
        self._exchange = exchange
        if len(body) <= JOIN_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def release(self, now: float) -> None:
        """The exchange has its answer: keep the connection if it can carry another."""
        self._exchange = None
        answer, transport = self.answer, self.transport
        unsent = transport.get_write_buffer_size()  # the engine has answered without reading the whole request
        if answer.surplus or unsent or not answer.keep_alive or transport.is_closing() or not self.endpoint.keep(self):
            transport.abort()
            return
        transport.resume_reading()
        self.idle_since, self.reused, self.answered = now, True, False
        answer.reset()

    def close(self) -> None:
        """Close it at once: an engine takes that as the end of the request."""
        self._exchange = None
        self.transport.abort()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The engine has accepted."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are transports without being its subclasses
        self.endpoint.open += 1

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        exchange = self._exchange
        if exchange is None:  # nothing was asked
            self.transport.abort()
            return
        self.answered = True
        try:
            body = self.answer.feed(data)
            exchange.received(body, self.answer.complete)
        except BadAnswerError as error:
            logger.warning("%s sent what is no answer: %s", self.endpoint.url, error)
            self.close()
            exchange.lost("reset")
        except Exception:  # a fault here must cost one request, and neither its charge nor the worker
            logger.exception("an answer of %s could not be passed on", self.endpoint.url)
            exchange.crash()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, whoever ended it."""
        self.endpoint.lost(self)
        self.answer.close()
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        try:
            if exc is None and self.answer.ends_with_connection:
                exchange.received(b"", True)
            else:
                exchange.lost("reset")
        except Exception:  # as above
            logger.exception("the end of a connection to %s could not be handled", self.endpoint.url)
            exchange.crash()
