"""The store by way of the client etcd3 keeps the contract of all stores, and its limits are those that its README states."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from nebula_store_etcd.testing import Etcd, running
from nebula_store_etcd3.settings import Etcd3Settings
from nebula_store_etcd3.store import Etcd3Store

from nebula_core import Put, SettingsError, Store, StoreUnavailable, plugins
from nebula_core.testing.store import StoreContract, next_of, put, until


@pytest.fixture(scope="module")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


def store_on(etcd: Etcd, **settings: Any) -> Etcd3Store:
    table = {"endpoints": (etcd.endpoint,), **settings}
    return Etcd3Store(Etcd3Settings(**table), logging.getLogger("test"), time.monotonic)


class TestEtcd3Store(StoreContract):
    @pytest.fixture(autouse=True)
    def _use(self, shared_etcd: Etcd) -> None:
        self.etcd = shared_etcd

    def open_store(self, tmp_path: Path) -> AbstractAsyncContextManager[Store]:
        return store_on(self.etcd, prefix=f"/{uuid.uuid4()}")


async def test_the_calls_are_the_clients_and_no_more_run_at_once_than_allowed(shared_etcd: Etcd) -> None:
    async with store_on(shared_etcd, prefix="/threads", calls=3) as store:
        await asyncio.gather(*(put(store, f"/{number}", b"") for number in range(50)))
        assert 1 <= sum(thread.name.startswith("etcd3") for thread in threading.enumerate()) <= 3
        assert len((await store.list("/")).entries) == 50


def test_the_client_is_imported_beside_the_protobuf_that_is_installed() -> None:
    """Its own messages do not load, which is shown first."""
    assert subprocess.run([sys.executable, "-c", "import etcd3"], capture_output=True, check=False).returncode != 0
    code = "import nebula_store_etcd3.store, etcd3, google.protobuf.descriptor_pool as p; p.Default().FindFileByName('kv.proto')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Couldn't find file kv.proto" in done.stderr


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"endpoints": ["http://a:1", "http://b:1"]}, "takes one address"),
        ({"endpoints": ["https://a:1"]}, "ca_cert"),
        ({"calls": 0}, "calls"),
    ],
)
def test_what_the_client_cannot_do_is_refused_in_the_settings(table: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=r"\[store_etcd3\]") as caught:
        plugins.parse_table(plugins.load().offer("store", "etcd3", "a test"), table)
    assert told in str(caught.value)


async def test_a_watch_outlives_a_restart_of_etcd_without_keeping_a_core_busy(tmp_path: Path) -> None:
    with running(tmp_path) as etcd:
        async with store_on(etcd, timeout_s=30) as store, store.watch("/", await put(store, "/0", b"")) as batches:
            etcd.stop()
            waiting = asyncio.create_task(next_of(batches))
            cpu = time.process_time()
            await asyncio.sleep(2)
            assert time.process_time() - cpu < 1
            with pytest.raises(StoreUnavailable):
                await store.transact([Put("/a", b"")])
            etcd.start()
            await asyncio.to_thread(etcd.wait_ready)
            written: list[int] = []

            async def write() -> None:
                while not written:
                    try:
                        written.append(await put(store, "/1", b""))
                    except StoreUnavailable:
                        await asyncio.sleep(0.1)

            await write()
            assert (await waiting).revision == written[0]


async def test_a_token_that_ends_is_replaced_as_the_client_itself_would_not(tmp_path: Path) -> None:
    with running(tmp_path, ["--logger", "zap", "--auth-token", "simple", "--auth-token-ttl", "1", "--bcrypt-cost", "4"]) as etcd:
        for command in ("user add root:root", "user grant-role root root", "auth enable"):
            etcd.ctl(*command.split())
        async with store_on(etcd, user="root", password="root") as store:
            await put(store, "/a", b"")
            await until(lambda: "deleted a simple token" in (etcd.folder / "log").read_text())
            await put(store, "/b", b"")
