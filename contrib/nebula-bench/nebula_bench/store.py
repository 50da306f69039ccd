"""What a fleet's heartbeats cost etcd, and how soon they are known where requests are routed.

    python -m nebula_bench.store --nodes 50 --engines 4 --seconds 30

Starts an etcd, a leader, a `nebula gateway`, and the reporting of all nodes. README.md says what the figures are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_bench.figures import StoreFigures, lines
from nebula_bench.fleet import Node
from nebula_bench.listener import Listener
from nebula_core.background import background
from nebula_core.interfaces import Put
from nebula_core.scheduler.loop import PREFIXES, SchedulerLoop
from nebula_core.settings import Settings
from nebula_core.store import codec, keys
from nebula_core.store.mirror import following
from nebula_core.testing.engines import FakeEngine
from nebula_core.testing.whole import Nebula
from nebula_core.types import ModelRequest

START_S = 120.0
logger = logging.getLogger("nebula.bench")


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m nebula_bench.store", description="What a fleet's heartbeats cost etcd.")
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--engines", type=int, default=4, help="per node (default 4)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to measure (default 30)")
    parser.add_argument("--heartbeat-s", type=float, default=3.0, help="[node] heartbeat_s (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    summary = measure(options.nodes, options.engines, options.seconds, options.heartbeat_s).summary()
    print(msgspec.json.format(msgspec.json.encode(summary)).decode() if options.json else lines(summary))


def measure(nodes: int, engines: int, seconds: float, heartbeat_s: float) -> StoreFigures:
    """Start everything, wait until all nodes are heard of, measure, and end everything."""
    with (
        tempfile.TemporaryDirectory(prefix="nebula-bench-") as folder,
        running(Path(folder) / "etcd") as etcd,
        _gateway(Path(folder) / "gateway", etcd) as gateway,
    ):
        return asyncio.run(_measure(etcd, gateway, nodes, engines, seconds, heartbeat_s))


@contextlib.contextmanager
def _gateway(folder: Path, etcd: Etcd) -> Iterator[Nebula]:
    gateway = Nebula(folder, f'[store]\nuse = "etcd"\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n')
    try:
        yield gateway.start(role="gateway")
    finally:
        gateway.close()


def _listener(gateway: Nebula) -> Listener:
    """A worker more. Those of another generation are sent away, so it bears that of the gateway's own."""
    found = (re.search(r"--generation (\S+)", line) for line in gateway.processes().values())
    generation = next(match[1] for match in found if match)
    return Listener(gateway.data_dir / "run" / "gateway.sock", generation)


async def _measure(etcd: Etcd, gateway: Nebula, nodes: int, engines: int, seconds: float, heartbeat_s: float) -> StoreFigures:
    settings = EtcdSettings(endpoints=(etcd.endpoint,))
    fleet = [Node(f"node-{number:04}", settings, heartbeat_s, logger) for number in range(nodes)]
    listener = _listener(gateway)
    async with EtcdStore(settings, logger, time.monotonic) as store, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(background(listener.run()))
        for node in fleet:
            await stack.enter_async_context(background(node.run()))
        await _until(lambda: all(node.heartbeats for node in fleet), "nodes did not begin")
        await stack.enter_async_context(_leader(store))
        await _load(store, models=nodes, replicas=engines)
        await _until(lambda: listener.sampled >= nodes * engines, "not all engines were heard of")
        await asyncio.sleep(2 * heartbeat_s)  # what the start has stirred up settles
        before = await _reading(store, etcd, fleet)
        listener.delays_s.clear()
        began = time.monotonic()
        await asyncio.sleep(seconds)
        delays_s = tuple(listener.delays_s)
        took_s, after = time.monotonic() - began, await _reading(store, etcd, fleet)
    grown = {name: after[name] - before[name] for name in after}
    return StoreFigures(nodes=nodes, engines=engines, seconds=took_s, delays_s=delays_s, **grown)


@contextlib.asynccontextmanager
async def _leader(store: EtcdStore) -> AsyncIterator[None]:
    async with (
        following(store, PREFIXES, logger) as mirror,
        background(SchedulerLoop(store, mirror, {"fake": FakeEngine()}, Settings(), logger, time.monotonic).run()),
    ):
        yield


async def _load(store: EtcdStore, *, models: int, replicas: int) -> None:
    for number in range(models):
        request = ModelRequest(model_uid=f"model-{number:04}", engine="fake", replicas=replicas)
        await store.transact([Put(keys.model_request(request.model_uid), codec.encode(request))])


async def _until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{complaint} within {START_S:g} s; ask for fewer")
        await asyncio.sleep(0.1)


async def _reading(store: EtcdStore, etcd: Etcd, fleet: Sequence[Node]) -> dict[str, int]:
    database = await asyncio.to_thread(etcd.metric, "etcd_mvcc_db_total_size_in_bytes")
    return {
        "heartbeats": sum(node.heartbeats for node in fleet),
        "transactions": sum(node.store.transactions for node in fleet),
        "keys": sum(node.store.keys for node in fleet),
        "bytes": sum(node.store.bytes for node in fleet),
        "refused": sum(node.store.refused for node in fleet),
        "revisions": (await store.list(keys.SEEDS)).revision,
        "database_bytes": int(database),
    }


if __name__ == "__main__":
    main()
