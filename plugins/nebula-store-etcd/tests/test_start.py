"""A start while etcd is away: what may come back is waited for, what is wrong for good is not."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_core import StoreUnavailable
from nebula_core.background import background
from nebula_core.store.lease import LeaseKeeper
from nebula_core.store.mirror import Mirror
from nebula_core.testing.store import put, until

StoreOn = Callable[..., EtcdStore]


async def test_an_etcd_that_is_down_is_told_once_and_every_call_says_so(
    tmp_path: Path, store_on: StoreOn, caplog: pytest.LogCaptureFixture
) -> None:
    etcd = Etcd(tmp_path)
    async with store_on(etcd) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"\[store_etcd\] endpoints"):
                await store.get("/a")
    [warning] = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert "[store_etcd] endpoints" in warning
    assert etcd.endpoint.removeprefix("http://") in warning
    assert "tried again" in warning


async def test_an_etcd_that_comes_up_later_is_used_without_a_restart(tmp_path: Path, store_on: StoreOn) -> None:
    etcd = Etcd(tmp_path)
    try:
        async with store_on(etcd) as store:
            mirror = Mirror(store, ["/models/"], logging.getLogger("test"))
            async with background(mirror.run()):
                etcd.start()
                await asyncio.to_thread(etcd.wait_ready)
                await mirror.wait_synced()
                await put(store, "/models/a", b"")
                await until(lambda: mirror.entry("/models/a") is not None)
    finally:
        etcd.stop()


async def test_an_etcd_that_comes_up_later_and_refuses_says_so_with_every_call(tmp_path: Path, store_on: StoreOn) -> None:
    with running(tmp_path, ["--bcrypt-cost", "4"]) as etcd:
        for command in ("user add root:root", "user grant-role root root", "auth enable"):
            etcd.ctl(*command.split())
        etcd.stop()
        async with store_on(etcd) as nobody, store_on(etcd, user="root", password="wrong") as stranger:
            etcd.start()
            await asyncio.to_thread(etcd.wait_ready)
            for store, told in ((nobody, r"set \[store_etcd\] user"), (stranger, r"does not accept \[store_etcd\] user and password")):
                with pytest.raises(StoreUnavailable, match=told):
                    await once_connected(store)


async def once_connected(store: EtcdStore) -> None:
    while True:
        try:
            await store.get("/a")
        except StoreUnavailable as error:
            if "no member of etcd answers" not in str(error):
                raise
            await asyncio.sleep(0.1)


async def test_a_server_that_is_no_etcd_does_not_hold_up_the_start(store_on: StoreOn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with store_on(endpoints=(f"http://127.0.0.1:{silent.getsockname()[1]}",), timeout_s=0.3) as store:
            with pytest.raises(StoreUnavailable, match="timeout_s"):
                await store.get("/a")


async def test_a_name_that_nobody_knows_yet_is_waited_for(store_on: StoreOn) -> None:
    async with store_on(endpoints=("http://etcd.invalid:2379",), timeout_s=1) as store:
        with pytest.raises(StoreUnavailable, match=r"etcd\.invalid"):
            await store.get("/a")


async def test_an_etcd_that_is_down_is_not_hammered(store_on: StoreOn) -> None:
    """Counts connections to a server that closes each at once, while everything a role does with a store tries to."""
    seconds, attempts = 5, 0

    def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, store_on(endpoints=(endpoint,)) as store:
        mirror = Mirror(store, [f"/{number}/" for number in range(9)], logging.getLogger("test"))
        async with background(mirror.run(), take_lease(store)):
            await asyncio.sleep(seconds)
    assert 0 < attempts <= 2 * seconds


async def take_lease(store: EtcdStore) -> None:
    with suppress(StoreUnavailable):
        async with LeaseKeeper(store, 30, logging.getLogger("test")):
            await asyncio.Event().wait()
