"""The port at which a gateway hears the others of its fleet."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from asyncio import IncompleteReadError

import msgspec

from nebula_core.gateway import peer_link
from nebula_core.gateway.hub import WorkerHub
from nebula_core.gateway.peer_link import Shift, Stranger, shifted
from nebula_core.gateway.sockets import bind_one

SILENT_S = 10.0
"""A gateway that says nothing for so long is gone, whatever became of its connection."""
MOST_STRANGERS = 32
"""Connections at a time that have not proved themselves yet; each costs some kilobytes."""
MOST_REMEMBERED = 1000
"""Addresses of strangers that were logged."""


class PeerListener:
    """Listens for as long as its context. What gateways that know `key` say goes to the hub, until they go."""

    def __init__(self, hub: WorkerHub, host: str, port: int, logger: logging.Logger) -> None:
        self.key = secrets.token_bytes(32)
        self.address = ""
        """`host:port`, once entered."""
        self._hub, self._host, self._port, self._logger = hub, host, port, logger
        self._connections: set[asyncio.StreamWriter] = set()
        self._unproven = 0
        self._heard: dict[str, asyncio.StreamWriter] = {}
        """Gateway → the connection that it speaks on."""
        self._logged: set[str] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> PeerListener:
        listener = bind_one(self._host, self._port, "[gateway]", "peers_")
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{host}:{listener.getsockname()[1]}"
        self._server = await asyncio.start_server(self._serve, sock=listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            gateway_id = await self._admit(reader, writer)
            await self._listen(gateway_id, reader, writer)
        except Stranger as error:
            self._log_once(writer, str(error))
        except (OSError, IncompleteReadError) as error:
            self._logger.debug("a connection of another gateway ended: %s", error)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        if self._unproven >= MOST_STRANGERS:
            raise Stranger(f"{self._unproven} others have not proved yet who they are")
        self._unproven += 1
        try:
            async with asyncio.timeout(peer_link.HANDSHAKE_S):
                return await peer_link.admit(reader, writer, self.key)
        except TimeoutError as error:
            raise Stranger("it took too long to prove who it is") from error
        finally:
            self._unproven -= 1

    async def _listen(self, gateway_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (before := self._heard.get(gateway_id)) is not None:
            self._hub.forget_peer(before)  # its end has not come through, or it would not dial again
            before.transport.abort()
        self._heard[gateway_id] = writer
        self._logger.debug("hearing the gateway %s", gateway_id)
        try:
            await self._pass_on(gateway_id, reader, writer)
        finally:
            self._hub.forget_peer(writer)
            if self._heard.get(gateway_id) is writer:
                del self._heard[gateway_id]

    async def _pass_on(self, gateway_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shift, understood = Shift(), True
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    report = await peer_link.read_report(reader)
            except msgspec.MsgspecError as error:
                if understood:
                    self._logger.warning("the gateway %s says what is not understood here, it is passed over: %s", gateway_id, error)
                understood = False
            else:
                self._hub.take_from_peer(writer, shifted(report, shift.note(report.sent, time.monotonic())))

    def _log_once(self, writer: asyncio.StreamWriter, why: str) -> None:
        host, *_ = writer.get_extra_info("peername") or ("an unknown address",)
        if host not in self._logged and len(self._logged) < MOST_REMEMBERED:
            self._logged.add(host)
            self._logger.warning("refused %s at %s, where only other gateways belong: %s (said once per address)", host, self.address, why)
