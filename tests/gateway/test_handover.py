"""A public port that changes hands."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from nebula_core.errors import NebulaError
from nebula_core.gateway import handover
from nebula_core.gateway.sockets import bind_public


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def listeners(stack, count: int, host: str = "127.0.0.1") -> list[socket.socket]:
    return [stack.enter_context(listener) for listener in bind_public(host, 0, count, "[gateway]")]


def taken_over(stack, inheritance, port: int, count: int) -> list[socket.socket]:
    return [stack.enter_context(s) for s in bind_public("127.0.0.1", port, count, "[gateway]", inheritance.listeners)]


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
async def test_connections_that_wait_are_accepted_by_the_next_owner(stack, tmp_path, until, before, after):
    old = listeners(stack, before)
    address = old[0].getsockname()
    with handover.Inheritance(tmp_path / "hub", *address) as inheritance:
        for listener in old:
            handover.give(tmp_path / "hub", listener)
            listener.close()
        await until(lambda: len(inheritance.listeners) == before)
        waiting = [stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(20)] if after >= before else []
        new = taken_over(stack, inheritance, address[1], after)
    assert len(new) == after
    assert {listener.getsockname() for listener in new} == {address}
    waiting += [stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(20)]
    loop, met = asyncio.get_running_loop(), []

    async def accept(listener):
        while True:
            connection, peer = await loop.sock_accept(listener)
            stack.enter_context(connection)
            met.append(peer)

    accepting = [asyncio.create_task(accept(listener)) for listener in new]
    await until(lambda: len(met) == len(waiting))
    for task in accepting:
        task.cancel()
    assert sorted(met) == sorted(client.getsockname() for client in waiting)


@pytest.mark.parametrize("wanted", [("127.0.0.1", 1), ("127.0.0.2", 0), ("0.0.0.0", 0), ("no.such.host.invalid", 0)])
async def test_a_socket_on_an_address_that_is_no_longer_asked_for_is_closed(stack, tmp_path, until, wanted):
    [old] = listeners(stack, 1)
    address = old.getsockname()
    with handover.Inheritance(tmp_path / "hub", wanted[0], wanted[1] or address[1]) as inheritance:
        handover.give(tmp_path / "hub", old)
        old.close()
        await asyncio.sleep(0.05)
        assert inheritance.listeners == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


async def test_the_others_are_waited_for_a_while(stack, tmp_path, until):
    [old] = listeners(stack, 1)
    with handover.Inheritance(tmp_path / "hub", *old.getsockname(), gather_s=0.1) as inheritance:
        await asyncio.sleep(0.15)
        assert not inheritance.gathered
        handover.give(tmp_path / "hub", old)
        await until(lambda: inheritance.listeners)
        assert not inheritance.gathered
        await until(lambda: inheritance.gathered)
        stack.enter_context(inheritance.listeners[0])


async def test_nobody_asks_for_it(stack, tmp_path):
    with pytest.raises(FileNotFoundError):
        handover.give(tmp_path / "hub", listeners(stack, 1)[0])


def test_a_port_that_nobody_gave_stays_its_owner_s(stack):
    [old] = listeners(stack, 1)
    with pytest.raises(NebulaError, match="in use"):
        bind_public("127.0.0.1", old.getsockname()[1], 1, "[gateway]")
