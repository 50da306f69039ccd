"""One client's connection: its requests are answered one after the other, and bounded in size and time."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
from typing import TYPE_CHECKING, Any

from nebula_core.gateway.data_path import errors, routes
from nebula_core.gateway.data_path.answers import Answer
from nebula_core.gateway.data_path.body import model_name
from nebula_core.gateway.data_path.errors import Refused
from nebula_core.gateway.data_path.http import CONTINUE, Request
from nebula_core.gateway.data_path.outbox import BatchedTransport
from nebula_core.gateway.data_path.relay import Exchange
from nebula_core.gateway.data_path.request_reader import RequestReader

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.services import Services

logger = logging.getLogger("nebula.gateway")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


_received = memoryview(bytearray(256 * 1024))
"""All connections read into the same memory, each taking out what came before the next one reads: a long body that comes whole, with a
head that is known, is copied once and not twice."""


class ClientConnection(asyncio.BufferedProtocol):
    """Has the requests of one client answered, and ends with the client, the drain or a deadline."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_dropped",
        "_exchange",
        "_held_back",
        "_reader",
        "_services",
        "_serving",
        "deadline",
        "paused",
        "transport",
    )

    transport: BatchedTransport

    def __init__(self, services: Services) -> None:
        self._services = services
        self._reader = RequestReader(
            services.identify, services.known_requests, services.limits.head_bytes, services.settings.max_body_bytes
        )
        self._exchange: Exchange | None = None
        self._answered = False
        """There has been a request."""
        self._serving = False
        self._held_back = False
        """Reading is paused: the client does not read its answers, or is too far ahead of them."""
        self._ahead = 0
        """Bytes that came while requests before them were being answered."""
        self._dropped = 0
        """Bytes that came after the last request that will be answered."""
        self.paused = False
        """The client does not read as fast as it is written to."""
        self.deadline = math.inf
        """When to give up on the present phase, by `Services.now`."""

    # --- called by the event loop

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        self.transport = BatchedTransport(transport, self._services.outbox)
        self.transport.set_write_buffer_limits(self._services.limits.write_high_bytes)
        self._services.connections.add(self)
        self.deadline = self._services.now + self._services.keep_alive_s

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes shall be put."""
        return _received

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of one or more requests."""
        reader = self._reader
        if reader.ended and self._exchange is None:
            self._drop(nbytes)
            return
        begins = reader.between
        if not reader.ended:
            reader.feed(_received[:nbytes])
        if self._exchange is not None:
            self._ahead += nbytes
            if self._ahead > self._services.limits.ahead_bytes:  # not at once: that a client has gone is seen by reading
                self._hold_back()
        elif reader.ready:
            self._serve()
        else:
            self._await_more(begins)

    def eof_received(self) -> None:
        """The client sends no more: it has gone, for HTTP clients do not half-close."""
        self.transport.flush()
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, whoever ended it."""
        self._leave()
        self._reader.close()
        self._services.forget(self)

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self.paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.paused = False
        if self._exchange is not None:
            self._exchange.resume()
        elif self._reader.ready:
            self._serve()

    # --- reading

    def _await_more(self, begins: bool) -> None:
        """A request is not complete: bound the wait for the rest."""
        services = self._services
        if self._reader.request is not None:
            self.deadline = services.now + services.idle_s
            self._invite_body()
        elif begins and not self._reader.between:
            self.deadline = services.now + services.limits.head_s

    def _invite_body(self) -> None:
        request = self._reader.request
        if request is not None and request.fields.pop(b"expect", b"").lower() == b"100-continue":
            self.transport.write(CONTINUE)

    def _hold_back(self) -> None:
        self._held_back = True
        self.transport.pause_reading()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > self._services.limits.linger_bytes:
            self.transport.abort()

    # --- answering

    def _serve(self) -> None:
        """Begin the requests that are ready, until one has to wait for its engine."""
        ready = self._reader.ready
        self._serving = True
        while ready and self._exchange is None and not self.paused:
            request = ready.popleft()
            try:
                self._begin(request)
            except Exception:  # a fault here must cost one request, and neither its charge nor the worker
                logger.exception("request %s failed", request.request_id.decode())
                self._crash(request)
            if ready:
                self.transport.flush()  # whether the client reads its answer decides whether the next request is begun
        self._serving = False
        if not ready:
            self._ahead = 0
            if self._held_back:
                self._held_back = False
                self.transport.resume_reading()
            if self._exchange is None:
                self._invite_body()
        elif self._exchange is None:
            self._hold_back()

    def _begin(self, request: Request) -> None:
        if request.refusal is not None:
            self._refuse(request, request.refusal)
            self._linger()
        elif routes.is_relayed(request):
            self._relay(request)
        else:
            self.answer(request, routes.own_answer(self._services, request))
            self.finished(close=not request.keep_alive)

    def _relay(self, request: Request) -> None:
        services = self._services
        try:
            name = model_name(request.fields.get(b"content-type", b""), request.body)
            model = services.router.table.find(name)
            if model is None:
                raise Refused(errors.unknown_model(name, services.router.table.models))
        except Refused as refused:
            self._refuse(request, refused.answer)
            self.finished(close=not request.keep_alive)
        else:
            self._exchange = Exchange(services, self, request, model, name)
            self._exchange.attempt()

    def _refuse(self, request: Request, answer: Answer) -> None:
        self._services.measures.count(answer.status)
        self.answer(request, answer)

    def _crash(self, request: Request) -> None:
        if self._exchange is not None:
            self._exchange.crash()
        else:
            self._refuse(request, errors.internal())
            self.finished(close=True)

    def answer(self, request: Request, answer: Answer) -> None:
        """Write an answer of the gateway's own."""
        self.transport.write(answer.render(request, self._services.draining))

    def finished(self, *, close: bool) -> None:
        """The present request is answered."""
        self._exchange = None
        self._answered = True
        if close or self._services.draining:
            self._close()
            return
        services, reader = self._services, self._reader
        if reader.between:
            self.deadline = services.now + services.keep_alive_s
        else:  # a part of the next request has come along
            self.deadline = services.now + (services.limits.head_s if reader.request is None else services.idle_s)
        if self._serving:
            return
        if self._held_back or reader.ready:
            self.transport.flush()  # as in `_serve`
            self._serve()
        elif reader.request is not None:
            self._invite_body()

    # --- ending

    def expired(self) -> None:
        """The deadline has passed."""
        reader, services = self._reader, self._services
        if self._exchange is not None:
            self._exchange.expired()
        elif reader.ended:
            self.transport.abort()
        elif not reader.between:
            body = reader.request is not None
            reader.refuse(errors.too_slow("body" if body else "headers", services.idle_s if body else services.limits.head_s))
            self._serve()
        else:
            self._close()

    def drain(self) -> None:
        """Close, unless a request is being read or answered, or the first one is on its way: then after that."""
        if self._exchange is not None or self._reader.ready or not self._reader.between:
            return
        if self._answered:
            self._close()
        else:
            self.deadline = self._services.now + self._services.limits.first_request_s

    def cut(self) -> None:
        """Reset the connection, so that the client cannot take what it has got for the whole."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def _close(self) -> None:
        """Close once all is written, or when the client has not read it for too long."""
        self._reader.ended = True
        self._reader.ready.clear()
        self.deadline = self._services.now + self._services.idle_s
        self.transport.close()

    def _linger(self) -> None:
        """Let the client read the answer to a request that it is still sending: closing at once would destroy it on the way."""
        self.deadline = self._services.now + self._services.limits.linger_s
        self.transport.write_eof()

    def _leave(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._reader.ready.clear()
        if exchange is not None:
            exchange.abort()
