"""Writes that wait for the end of an event loop's turn: none lost, none out of order, none too many."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.data_path.outbox import AT_ONCE_BYTES, BatchedTransport, Outbox


class Wire:
    """A transport that notes what it is told, and may fail."""

    def __init__(self, done: list[str | bytes] | None = None) -> None:
        self.done: list[str | bytes] = [] if done is None else done
        self.fault: Exception | None = None
        self.closing = False

    def write(self, data: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        self.done.append(data)

    def writelines(self, parts) -> None:
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.closing = True
        self.done.append("closed")

    def abort(self) -> None:
        self.closing = True
        self.done.append("aborted")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 5

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Unread(Wire):
    """One whose other end reads nothing."""

    def write(self, data: bytes) -> None:
        super().write(data)
        self.protocol.pause_writing()


def connect(running, wire: Wire):
    wire.protocol = running.server.connection()
    wire.protocol.connection_made(wire)
    return wire.protocol


def feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    protocol.get_buffer(-1)[: len(data)] = data
    protocol.buffer_updated(len(data))


HEALTH = b"GET /health HTTP/1.1\r\nhost: g\r\n\r\n"
CHAT = b'POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"model":"m"}'


async def turn() -> None:
    await asyncio.sleep(0)


async def test_writes_of_a_turn_go_out_together_and_after_it():
    outbox, done = Outbox(), []
    a, b = (BatchedTransport(Wire(done), outbox) for _ in range(2))
    a.write(b"a1 ")
    b.write(b"b1 ")
    a.writelines((b"a2 ", b"a3 "))
    assert done == []
    assert a.get_write_buffer_size() == len(b"a1 a2 a3 ") + 5
    await turn()
    assert done == [b"a1 a2 a3 ", b"b1 "]
    assert a.get_write_buffer_size() == 5
    a.write(b"a4 ")
    await turn()
    assert done[2:] == [b"a4 "]


@given(st.lists(st.sampled_from(["write", "write much", "lines", "turn", "eof"]), max_size=30))
def test_bytes_keep_their_order_whatever_is_done_between(steps):
    async def run() -> None:
        wire, outbox, written = Wire(), Outbox(), b""
        transport = BatchedTransport(wire, outbox)
        for number, step in enumerate(steps):
            data = b"%d," % number * (AT_ONCE_BYTES if step == "write much" else 1)
            match step:
                case "turn":
                    await turn()
                case "eof":
                    transport.write_eof()
                case "lines":
                    transport.writelines((data, data))
                    data += data
                case _:
                    transport.write(data)
            if step not in ("turn", "eof"):
                written += data
            if step in ("turn", "eof", "write much"):
                assert b"".join(piece for piece in wire.done if isinstance(piece, bytes)) == written
        transport.close()
        assert b"".join(piece for piece in wire.done if isinstance(piece, bytes)) == written
        assert wire.done[-1] == "closed"

    asyncio.run(run())


async def test_much_is_written_at_once_so_that_back_pressure_comes_in_time():
    wire = Wire()
    transport = BatchedTransport(wire, Outbox())
    for _ in range(4):
        transport.write(bytes(AT_ONCE_BYTES // 4))
    assert wire.done == [bytes(AT_ONCE_BYTES)]


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_what_waits_is_written_before_an_end(end):
    wire = Wire()
    transport = BatchedTransport(wire, Outbox())
    transport.write(b"last words")
    getattr(transport, end)()
    assert wire.done[0] == b"last words"
    await turn()
    assert len(wire.done) == 2


async def test_an_abort_drops_what_waits():
    wire = Wire()
    transport = BatchedTransport(wire, Outbox())
    transport.write(b"never sent")
    transport.abort()
    await turn()
    assert wire.done == ["aborted"]


async def test_a_connection_that_was_lost_in_the_meantime_is_not_written_to():
    wire = Wire()
    transport = BatchedTransport(wire, Outbox())
    transport.write(b"too late")
    wire.closing = True
    await turn()
    assert wire.done == []


async def test_one_that_cannot_be_written_to_costs_itself_alone(caplog):
    outbox = Outbox()
    wires = [Wire() for _ in range(3)]
    for wire in wires:
        BatchedTransport(wire, outbox).write(b"hello")
    wires[1].fault = RuntimeError("broken")
    await turn()
    assert [wire.done for wire in wires] == [[b"hello"], ["aborted"], [b"hello"]]
    assert "the connection with the peername could not be written to" in caplog.text


async def test_a_write_that_follows_from_a_write_goes_out_too():
    outbox, wire, other = Outbox(), Wire(), Wire()
    transport, next_one = BatchedTransport(wire, outbox), BatchedTransport(other, outbox)

    def answer(data: bytes) -> None:
        wire.done.append(data)
        if data == b"first":
            transport.write(b"second")
            next_one.write(b"another's")

    wire.write = answer
    transport.write(b"first")
    await turn()
    await turn()
    assert (wire.done, other.done) == ([b"first", b"second"], [b"another's"])


@pytest.mark.parametrize("first", [HEALTH, CHAT], ids=["answered here", "answered by an engine"])
async def test_a_pipelined_request_waits_until_the_answer_before_it_is_taken(gateway, engine, until, first):
    running = await gateway((await engine()).url)
    wire = Unread()
    client = connect(running, wire)
    feed(client, first + HEALTH)
    await until(lambda: wire.done)
    await turn()
    assert len(wire.done) == 1
    client.resume_writing()
    await until(lambda: len(wire.done) == 2)
    client.connection_lost(None)


async def test_a_client_that_ends_its_direction_gets_what_was_answered_before(gateway):
    wire = Wire()
    client = connect(await gateway(), wire)
    feed(client, HEALTH)
    client.eof_received()
    assert wire.done[0].startswith(b"HTTP/1.1 ")
    client.connection_lost(None)
