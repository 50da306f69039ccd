"""A write whose answer did not come in time may be carried out later: what it can do then, and what it cannot."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd

from nebula_core import Put, StoreUnavailable, Unchanged
from nebula_core.testing.polling import eventually
from nebula_core.testing.store import put, until

StoreOn = Callable[..., EtcdStore]
HEAD = 9
"""Bytes before each frame of HTTP/2: its length in three, its type in the next."""
RESET = 3
TXNS = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",grpc_service="etcdserverpb.KV",grpc_type="unary"}'


class Network:
    """A way to etcd that can hold back what is sent, and deliver it later without the word that nobody waits for it any more."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._held: bytearray | None = None
        self._onward: asyncio.StreamWriter | None = None
        self.endpoint = ""

    def hold(self) -> None:
        self._held = bytearray()

    def deliver(self) -> None:
        held, self._held = self._held, None
        assert held is not None
        assert self._onward is not None
        while held:
            size = HEAD + int.from_bytes(held[:3], "big")
            if held[3] != RESET:
                self._onward.write(bytes(held[:size]))
            del held[:size]

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._etcd.endpoint.removeprefix("http://").split(":")
        answers, self._onward = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(copy(answers, writer))
        try:
            while data := await reader.read(65536):
                if self._held is None:
                    self._onward.write(data)
                else:
                    self._held += data
        finally:
            self._onward.close()
            await back


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def network(etcd: Etcd) -> AsyncIterator[Network]:
    way = Network(etcd)
    server = await asyncio.start_server(way.carry, "127.0.0.1", 0)
    way.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield way


async def test_a_write_that_comes_late_replaces_no_newer_value(shared_etcd: Etcd, store_on: StoreOn) -> None:
    async with (
        network(shared_etcd) as way,
        store_on(endpoints=(way.endpoint,), prefix="/late", timeout_s=0.5) as slow,
        store_on(shared_etcd, prefix="/late") as other,
    ):
        await put(slow, "/a", b"first")
        way.hold()
        with pytest.raises(StoreUnavailable):
            await put(slow, "/a", b"late")
        await put(other, "/a", b"newer")
        handled = shared_etcd.metric(TXNS)
        way.deliver()
        await until(lambda: shared_etcd.metric(TXNS) > handled)

        entry = await other.get("/a")
        assert entry is not None
        assert entry.value == b"newer"


async def test_a_write_that_comes_late_is_done_if_nobody_was_faster(shared_etcd: Etcd, store_on: StoreOn) -> None:
    async with (
        network(shared_etcd) as way,
        store_on(endpoints=(way.endpoint,), prefix="/later", timeout_s=0.5) as slow,
        store_on(shared_etcd, prefix="/later") as other,
    ):
        first = await put(slow, "/a", b"first")
        way.hold()
        for conditions in ((), (Unchanged("/a", first),)):
            with pytest.raises(StoreUnavailable):
                await slow.transact([Put("/a", b"late")], conditions)
        way.deliver()

        async def is_done() -> bool:
            entry = await other.get("/a")
            return entry is not None and entry.value == b"late"

        assert await eventually(is_done)


async def test_a_write_without_conditions_is_done_whatever_others_wrote_before(shared_etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(shared_etcd, prefix="/both") as one, store_on(shared_etcd, prefix="/both") as other:
        for number in range(10):
            await put(one, "/a", b"one")
            await put(other, "/a", str(number).encode())
            entry = await one.get("/a")
            assert entry is not None
            assert entry.value == str(number).encode()


async def test_writers_of_one_key_that_know_of_no_condition_all_succeed(shared_etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(shared_etcd, prefix="/crowd") as store:
        revisions = await asyncio.gather(*(put(store, "/a", str(number).encode()) for number in range(8)))
        assert len(set(revisions)) == 8
