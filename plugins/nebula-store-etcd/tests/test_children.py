"""A process that talks to etcd starts others: gateways their workers, nodes their engines."""

import asyncio
from collections.abc import Callable

import uvloop
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd

WATCHES = 3
CHILDREN = 40
"""One of six was aborted by gRPC's fork handlers, on the event loop that every role runs on."""


def test_children_are_not_hurt_by_grpc(shared_etcd: Etcd, store_on: Callable[..., EtcdStore]) -> None:
    async def start_children() -> list[int]:
        async with store_on(shared_etcd, prefix="/children") as store, asyncio.TaskGroup() as group:
            following = [group.create_task(_follow(store, f"/{number}")) for number in range(WATCHES)]
            await store.get("/a")
            codes = [await _child() for _ in range(CHILDREN)]
            for task in following:
                task.cancel()
        return codes

    assert uvloop.run(start_children()) == [0] * CHILDREN


async def _follow(store: EtcdStore, prefix: str) -> None:
    async with store.watch(prefix, 0) as batches:
        async for _ in batches:
            pass


async def _child() -> int:
    return await (await asyncio.create_subprocess_exec("true", start_new_session=True)).wait()
