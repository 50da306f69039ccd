"""Gateways tell each other what is in flight through them, so that the load each routes by is the whole fleet's.

/gateways/ in the store ─► whom to dial (pure) ─► a connection to each ─► what our workers do
                                  our port ◄─ a connection from each ◄─ what theirs do

Every gateway dials every other one and sends what is its own; what it hears goes to its own workers and no further.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NoReturn

import msgspec

from nebula_core.gateway import peer_link
from nebula_core.gateway.hub import WorkerHub
from nebula_core.gateway.link import frame
from nebula_core.gateway.peer_link import Report, Stranger
from nebula_core.gateway.peer_listener import SILENT_S
from nebula_core.store import keys
from nebula_core.store.mirror import Changes, Mirror, pause_s
from nebula_core.types import GatewayStatus

DIAL_S = 5.0
BEAT_S = 2.0
"""Longest silence towards another gateway: less than what it takes for the end of us."""
MOST_UNSENT = 8 * 1024 * 1024
"""Bytes that a gateway may leave unread before it is cut off; it is dialled again, and told everything."""
STEADY_S = 5.0
COMPLAIN_AFTER = 3
"""Attempts in a row that fail before it is said: a gateway that stops or starts again is gone from the store within less."""


class Peer(msgspec.Struct, frozen=True):
    """Another gateway, as it published itself. One that starts anew has another key, and is another peer."""

    gateway_id: str
    host: str
    port: int
    key: bytes


def to_dial(gateways: Iterable[GatewayStatus], own_id: str) -> set[Peer]:
    """The gateways to speak to: all but ourselves that say where, and with which key."""
    peers = (_peer(gateway) for gateway in gateways if gateway.gateway_id != own_id)
    return {peer for peer in peers if peer is not None}


class Peers:
    """Tells every other gateway that is published what this hub's workers do."""

    def __init__(self, hub: WorkerHub, mirror: Mirror, gateway_id: str, logger: logging.Logger) -> None:
        self._hub, self._mirror, self._gateway_id, self._logger = hub, mirror, gateway_id, logger
        self._listening: set[asyncio.StreamWriter] = set()

    async def run(self) -> NoReturn:
        """Keep a connection to each of them, for ever."""
        changes, dialled = self._mirror.subscribe(), dict[Peer, asyncio.Task[NoReturn]]()
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = to_dial(self._mirror.values(keys.GATEWAYS, GatewayStatus).values(), self._gateway_id)
                for peer in dialled.keys() - wanted:
                    dialled.pop(peer).cancel()
                for peer in wanted - dialled.keys():
                    dialled[peer] = group.create_task(self._keep_telling(peer), name=f"gateway {peer.gateway_id}")
                await _gateways_changed(changes)
        raise AssertionError("the loop above has no end")

    async def _keep_telling(self, peer: Peer) -> NoReturn:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                async with self._dialled(peer) as (reader, writer):
                    with self._told(writer):
                        await _beat(reader, writer)
                raise ConnectionError("it hung up")
            except (OSError, EOFError, Stranger) as error:
                failures = failures + 1 if time.monotonic() - began < STEADY_S else 1
                if failures == COMPLAIN_AFTER:
                    self._logger.warning("the gateway %s cannot be told what is in flight here, trying again: %s", *_why(peer, error))
            await asyncio.sleep(pause_s(failures, random.random()))

    @asynccontextmanager
    async def _dialled(self, peer: Peer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(DIAL_S):
            reader, writer = await asyncio.open_connection(peer.host, peer.port)
        try:
            # A host that is gone without a word would else be noticed after a quarter of an hour.
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_S * 1000))
            async with asyncio.timeout(peer_link.HANDSHAKE_S):
                await peer_link.introduce(reader, writer, self._gateway_id, peer.key)
            self._logger.info("telling the gateway %s at %s:%d what is in flight here", peer.gateway_id, peer.host, peer.port)
            yield reader, writer
        finally:
            writer.transport.abort()

    @contextmanager
    def _told(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """Tell all that is in flight through us now, and what changes for as long as the context."""
        writer.write(frame(self._hub.first_report()))
        self._listening.add(writer)
        if len(self._listening) == 1:
            self._hub.report_to(self._tell)
        try:
            yield
        finally:
            self._listening.discard(writer)
            if not self._listening:
                self._hub.report_to(None)

    def _tell(self, report: Report) -> None:
        data = b"".join(peer_link.frames(report))
        for writer in self._listening:
            if writer.transport.get_write_buffer_size() > MOST_UNSENT:
                writer.transport.abort()
            elif not writer.is_closing():
                writer.write(data)


async def _beat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say now and then that we live, until the other side ends the connection; it has nothing to say here."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                while await reader.read(1024):
                    pass
                return
        writer.write(frame(Report(time.monotonic())))


async def _gateways_changed(changes: Changes) -> None:
    while not any(key.startswith(keys.GATEWAYS) for key in await changes.wait()):
        pass


def _peer(gateway: GatewayStatus) -> Peer | None:
    """Where another gateway listens; `None` if it says nothing of it that can be used."""
    host, colon, port = gateway.peers.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        peer = Peer(gateway.gateway_id, host, int(port), bytes.fromhex(gateway.peers_key))
    except ValueError:
        return None
    return peer if colon and host and peer.key and 0 < peer.port <= 65535 else None


def _why(peer: Peer, error: BaseException) -> tuple[str, str]:
    where = f"{peer.host}:{peer.port}"
    local = peer.host.startswith("127.") or peer.host in ("localhost", "::1")
    hint = "; if it runs on another machine, set [gateway] peers_host there to an address of that machine" if local else ""
    return f"{peer.gateway_id} at {where}", f"{str(error) or 'no answer'}{hint}"
