"""Gateways that tell each other what is in flight: whom they dial, who may speak, and what arrives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nebula_core.background import background
from nebula_core.gateway import link, peer_link
from nebula_core.gateway.hub import WorkerHub
from nebula_core.gateway.peer_link import WINDOW_S, Report, Shift, Stranger, frames, introduce, shifted
from nebula_core.gateway.peer_listener import PeerListener
from nebula_core.gateway.peers import Peer, Peers, to_dial
from nebula_core.gateway.sockets import short_name
from nebula_core.interfaces import Delete, Put
from nebula_core.router.blocks import PrefixBlocks
from nebula_core.router.events import Lost, RouteEvent
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.settings import GatewaySettings
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.types import GatewayStatus

ROUTE = Route(model_uid="m", replica_id="0", assignment_version="a", incarnation=1, url="http://127.0.0.1:1")
TABLE = {"m": ModelRoute(model_uid="m", routes=(ROUTE,))}
KEY = "ab" * 32


def gateway(gateway_id: str, peers: str = "127.0.0.1:1", peers_key: str = KEY) -> GatewayStatus:
    return GatewayStatus(gateway_id=gateway_id, address="", peers=peers, peers_key=peers_key)


def event(number: int = 0, at: float = 0.0) -> RouteEvent:
    return RouteEvent(kind="charged", model_uid="m", replica_id="0", incarnation=1, request_id=str(number), at=at)


# --- whom to dial ---------------------------------------------------------------------------------------------------------------


def test_every_gateway_but_ourselves_is_dialled():
    assert to_dial([gateway("a"), gateway("b", "[fe80::1]:7000")], "a") == {Peer("b", "fe80::1", 7000, bytes.fromhex(KEY))}


@pytest.mark.parametrize("peers", ["", "host", "host:", ":7000", "host:0", "host:65536", "host:-1", "host:x", "host:" + "9" * 5000])
def test_a_gateway_that_does_not_say_where_is_not_dialled(peers):
    assert to_dial([gateway("b", peers)], "a") == set()


@pytest.mark.parametrize("key", ["", "no hex", "abc"])
def test_a_gateway_without_a_key_is_not_dialled(key):
    assert to_dial([gateway("b", peers_key=key)], "a") == set()


@given(st.lists(st.tuples(st.text(), st.text(), st.text())))
def test_nothing_that_lies_in_the_store_stops_the_others_from_being_dialled(foreign):
    found = to_dial([gateway("b"), *(gateway(*each) for each in foreign)], "a")
    assert Peer("b", "127.0.0.1", 1, bytes.fromhex(KEY)) in found
    assert all(peer.gateway_id != "a" for peer in found)


# --- clocks and frames ----------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), min_size=1))
def test_another_clock_is_known_but_for_the_shortest_delay_of_late(offset, steps):
    shift, sent, frames_seen = Shift(), 0.0, []
    for pause, delay in steps:
        sent = max(sent + pause, frames_seen[-1][1] - offset if frames_seen else 0.0)
        came = sent + offset + delay
        frames_seen.append((sent, came))
        off = shift.note(sent, came) - offset
        recent = [then - before - offset for before, then in frames_seen if came - then <= WINDOW_S]
        assert -1e-6 <= off <= min(recent) + 1e-6


def test_a_clock_that_stood_still_is_believed_again_after_a_minute():
    shift = Shift()
    shift.note(0.0, 0.0)
    assert [shift.note(t, t + 5.0) for t in (1.0, 40.0, 80.0)] == [0.0, 0.0, 5.0]


@given(st.integers(0, 3500))
def test_a_report_in_pieces_holds_the_same(count):
    report = Report(7.0, (("m", "0", 2),), (Lost("m", "0", 1),), tuple(event(number) for number in range(count)))
    pieces = [msgspec.msgpack.decode(piece[4:], type=Report) for piece in frames(report)]
    assert sum((piece.events for piece in pieces), ()) == report.events
    assert [piece.charges for piece in pieces if piece.charges] == [report.charges]
    assert [piece.failures for piece in pieces if piece.failures] == [report.failures]
    assert all(len(piece.events) <= peer_link.MOST_EVENTS and piece.sent == 7.0 for piece in pieces)


def test_events_are_shifted_and_nothing_else():
    report = Report(7.0, (("m", "0", 2),), (), (event(at=6.5),))
    assert shifted(report, 100.0) == Report(7.0, report.charges, (), (event(at=106.5),))


# --- two gateways ---------------------------------------------------------------------------------------------------------------


class Gateway:
    """A gateway's control side without its processes: a hub, its port for the others, and one worker's end of the link."""

    def __init__(self, hub: WorkerHub, listener: PeerListener, telling: AsyncExitStack) -> None:
        self.hub, self.listener, self.telling = hub, listener, telling
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    def charge(self, count: int) -> None:
        link.write(self.writer, link.Charges((("m", "0", count),)))

    async def hears(self, type_):
        async with asyncio.timeout(5):
            while not isinstance(message := await link.read_down(self.reader), type_):
                continue
        return message


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def store(stack, tmp_path):
    return await stack.enter_async_context(EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logging.getLogger("test")))


@pytest.fixture
def start(stack, store, tmp_path) -> Callable:
    async def start(name: str) -> Gateway:
        logger = logging.getLogger(f"test.{name}")
        path = tmp_path / f"{name}.sock"
        hub = await stack.enter_async_context(WorkerHub(path, "now", b"{}", 3.0, logger))
        listener = await stack.enter_async_context(PeerListener(hub, "127.0.0.1", 0, logger))
        mirror = await stack.enter_async_context(following(store, [keys.GATEWAYS], logger))
        telling = await stack.enter_async_context(AsyncExitStack())
        await telling.enter_async_context(background(Peers(hub, mirror, name, logger).run()))
        hub.publish_table(TABLE, 1)
        made = Gateway(hub, listener, telling)
        with short_name(path) as short:
            made.reader, made.writer = await asyncio.open_unix_connection(short)
        stack.callback(made.writer.close)
        link.write(made.writer, link.Hello(pid=1, slot=0, generation="now"))
        await made.hears(link.Stats)
        await publish(store, name, listener)
        return made

    return start


@pytest.fixture
def speak_to(stack) -> Callable:
    """Dial a gateway, as the gateway "dialler" does, and say something."""

    async def speak_to(heard: Gateway, report: Report) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*heard.listener.address.split(":"))
        stack.callback(writer.close)
        await introduce(reader, writer, "dialler", heard.listener.key)
        writer.write(link.frame(report))
        return reader, writer

    return speak_to


async def publish(store, name: str, listener: PeerListener) -> None:
    await store.transact([Put(keys.gateway(name), codec.encode(gateway(name, listener.address, listener.key.hex())))])


async def test_charges_events_and_failures_reach_the_other_gateways_workers(start):
    a, b = await start("a"), await start("b")
    assert await a.hears(link.ShareEvents) == link.ShareEvents(True)
    a.charge(4)
    assert await b.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 4),))
    link.write(a.writer, link.Failures((Lost("m", "0", 1),)))
    assert await b.hears(link.Suspects) == link.Suspects((Lost("m", "0", 1),))
    at = time.monotonic()
    link.write(a.writer, link.Events((event(7, at),)))
    (seen,) = (await b.hears(link.Events)).events
    assert seen.request_id == "7"
    assert at <= seen.at <= time.monotonic(), "both clocks are this machine's"


async def test_what_was_in_flight_before_is_told_first(start):
    a = await start("a")
    a.charge(4)
    b = await start("b")
    assert await b.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 4),))


async def test_another_gateways_charges_are_neither_our_demand_nor_sent_on(start):
    a, b, c = await start("a"), await start("b"), await start("c")
    a.charge(4)
    for other in (b, c):
        assert await other.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 4),))
    b.charge(1)
    assert await c.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 5),))
    assert await a.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 1),))
    assert (a.hub.in_flight().total(), b.hub.in_flight().total(), c.hub.in_flight().total()) == (4, 1, 0)


async def test_a_gateway_that_is_gone_takes_its_charges_along(start):
    a, b = await start("a"), await start("b")
    a.charge(4)
    await b.hears(link.ChargesElsewhere)
    await a.telling.aclose()
    assert await b.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 0),))


async def test_a_gateway_that_dials_again_is_not_counted_twice(start, speak_to):
    a = await start("a")
    first, _ = await speak_to(a, Report(0.0, (("m", "0", 3),)))
    assert await a.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 3),))
    await speak_to(a, Report(0.0, (("m", "0", 2),)))
    await ended(first)
    told = await a.hears(link.ChargesElsewhere)
    if told == link.ChargesElsewhere((("m", "0", 0),)):
        told = await a.hears(link.ChargesElsewhere)
    assert told == link.ChargesElsewhere((("m", "0", 2),))


async def test_events_are_gathered_only_while_another_gateway_listens(start, store):
    a, b = await start("a"), await start("b")
    assert await a.hears(link.ShareEvents) == link.ShareEvents(True)
    await store.transact([Delete(keys.gateway("b"))])
    assert await a.hears(link.ShareEvents) == link.ShareEvents(False)
    await publish(store, "b", b.listener)
    assert await a.hears(link.ShareEvents) == link.ShareEvents(True)


async def test_charges_are_told_again_when_a_replica_becomes_known(start):
    """Another gateway may know of a replica first, and have requests there before our table has it."""
    a, b = await start("a"), await start("b")
    a.charge(4)
    await b.hears(link.ChargesElsewhere)
    b.hub.publish_table({}, 2)
    b.hub.publish_table(TABLE, 3)
    assert (await b.hears(link.Table)).models == ()
    assert (await b.hears(link.Table)).models == tuple(TABLE.values())
    assert await b.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 4),))


async def test_a_worker_that_comes_later_hears_what_others_have(start, stack, tmp_path):
    a, b = await start("a"), await start("b")
    a.charge(4)
    await b.hears(link.ChargesElsewhere)
    with short_name(tmp_path / "b.sock") as short:
        b.reader, b.writer = await asyncio.open_unix_connection(short)
    stack.callback(b.writer.close)
    link.write(b.writer, link.Hello(pid=2, slot=0, generation="now"))
    assert await b.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 4),))


# --- strangers ------------------------------------------------------------------------------------------------------------------


async def test_a_stranger_without_the_key_is_refused_and_logged_once(start, caplog):
    a = await start("a")
    for _ in range(3):
        reader, writer = await asyncio.open_connection(*a.listener.address.split(":"))
        with pytest.raises(Stranger):
            await introduce(reader, writer, "b", b"guessed")
        writer.write(link.frame(peer_link.Answer(b"x" * 32)))
        writer.write(link.frame(Report(0.0, (("m", "0", 9),))))
        await ended(reader)
        writer.close()
    assert caplog.text.count("127.0.0.1 at") == 1
    a.charge(1)
    other = await start("b")
    assert await other.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 1),)), "nine were never counted"


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x03abc", b"\0\0\x04\0" + b"x" * 1024, b"\0\1\0\0"])
async def test_what_does_not_speak_like_a_gateway_is_cut_off(start, said):
    a = await start("a")
    reader, writer = await asyncio.open_connection(*a.listener.address.split(":"))
    writer.write(said)
    await ended(reader)
    writer.close()


async def test_who_listens_without_the_key_learns_nothing(start, store, stack, until):
    heard = []

    async def listen(reader, writer):
        heard.append(await peer_link._hear(reader, peer_link.Hello))
        writer.write(link.frame(peer_link.Challenge(b"n" * 32, b"x" * 32)))
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    stack.callback(server.close)
    a = await start("a")
    a.charge(4)
    port = server.sockets[0].getsockname()[1]
    await store.transact([Put(keys.gateway("b"), codec.encode(gateway("b", f"127.0.0.1:{port}")))])
    await until(lambda: len(heard) == 2)
    assert heard[1] == b""


async def test_a_gateway_that_does_not_read_is_cut_off_and_dialled_again(start, store, stack, until):
    key, connections, done = b"k" * 32, [], asyncio.Event()

    async def listen(reader, writer):
        connections.append(await peer_link.admit(reader, writer, key))
        await done.wait()
        writer.transport.abort()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    stack.callback(server.close)
    stack.callback(done.set)
    a = await start("a")
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await store.transact([Put(keys.gateway("b"), codec.encode(gateway("b", address, key.hex())))])
    await a.hears(link.ShareEvents)
    long = PrefixBlocks(tuple(range(2**63, 2**63 + 200)), (65536,) * 200, 13_107_200)
    events = tuple(msgspec.structs.replace(event(number), prefix_blocks=long) for number in range(1000))
    async with asyncio.timeout(20):
        while len(connections) < 2:
            link.write(a.writer, link.Events(events))
            await a.writer.drain()
            await asyncio.sleep(0.01)
    assert connections[:2] == ["a", "a"]


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "[::]"])
def test_an_address_that_nobody_can_dial_is_refused(host):
    with pytest.raises(ValidationError, match="name one of this machine's own"):
        GatewaySettings(peers_host=host)


async def test_what_a_newer_gateway_says_is_passed_over(start, speak_to):
    a = await start("a")
    _, writer = await speak_to(a, Report(0.0))
    writer.write(b"\0\0\0\x05\x84new\xc0" + link.frame(Report(0.0, (("m", "0", 2),))))
    assert await a.hears(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 2),))


async def ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(5):
        try:
            while await reader.read(1024):
                pass
        except ConnectionError:
            return
