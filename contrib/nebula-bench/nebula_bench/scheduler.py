"""What a pass of the scheduler costs over a fleet: placing everything, and looking again after a change of one endpoint or one node.

    python -m nebula_bench.scheduler --nodes 1000 --models 200 --replicas 4000

A real leader on a store in a temporary folder; nodes and engines are played. Timed is the leader's thread, in CPU time, from reading its
mirror to the decision; writing it is the store's. Needs the placement policies' packages, or `--policy none`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from nebula_bench.figures import lines
from nebula_core import plugins
from nebula_core.background import background
from nebula_core.interfaces import MAX_OPERATIONS, Placement, Put
from nebula_core.metrics import Metrics
from nebula_core.scheduler.loop import PREFIXES, SchedulerLoop
from nebula_core.scheduler.world import Decisions
from nebula_core.settings import Settings
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import Mirror, following
from nebula_core.testing.engines import FakeEngine
from nebula_core.testing.fleet import answer
from nebula_core.testing.polling import eventually
from nebula_core.types import (
    READY,
    UNHEALTHY,
    EndpointInfo,
    GpuStatus,
    MachineStatus,
    ModelRequest,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
    Value,
)

GIB = 2**30
GPUS_PER_NODE = 8
GPUS_PER_REPLICA = (1, 1, 2, 2)
"""Of one model after another."""
ZONES = 4
START_S = 120.0
logger = logging.getLogger("nebula.bench")


class GpuEngine(FakeEngine):
    """Asks for GPUs; nothing is launched here."""

    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """As many equal replicas as are asked for, with their GPUs."""
        spec = ReplicaSpec(model_uid=request.model_uid, engine=request.engine, gpus=request.gpus_per_replica)
        return (spec,) * request.replicas


class TimedLoop(SchedulerLoop):
    """Notes what each of its passes costs."""

    passes: list[float]
    """Milliseconds of CPU, pass by pass."""

    def _decide(self, *arguments: Any) -> Decisions:
        began = time.thread_time()
        decisions = super()._decide(*arguments)
        self.passes.append((time.thread_time() - began) * 1000)
        return decisions


class Bench:
    """A leader that can be given something to do."""

    def __init__(self, store: EmbeddedStore, mirror: Mirror, loop: TimedLoop) -> None:
        self.store, self.mirror, self.loop = store, mirror, loop

    async def write(self, values: Mapping[str, Value]) -> None:
        """Write all of these, as many at once as the store takes."""
        writes = [Put(key, codec.encode(value)) for key, value in values.items()]
        for first in range(0, len(writes), MAX_OPERATIONS):
            await self.store.transact(writes[first : first + MAX_OPERATIONS])

    async def cost_of(self, values: Mapping[str, Value]) -> float:
        """Milliseconds of the first pass that sees a change."""
        before = len(self.loop.passes)
        await self.write(values)

        async def passed() -> bool:
            return len(self.loop.passes) > before

        await eventually(passed, START_S)
        await self.quiet()
        return self.loop.passes[before]

    async def quiet(self) -> None:
        """Wait until half a second has passed without a pass."""
        seen = -1
        while seen != len(self.loop.passes):
            seen = len(self.loop.passes)
            await asyncio.sleep(0.5)

    def plans(self) -> list[PlacementPlan]:
        """All plans as the mirror has them."""
        return list(self.mirror.values(keys.PLACEMENTS, PlacementPlan).values())


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m nebula_bench.scheduler", description="What a pass of the scheduler costs.")
    parser.add_argument("--nodes", type=int, default=1000, help=f"with {GPUS_PER_NODE} GPUs each (default 1000)")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=4000, help="of all models together (default 4000)")
    parser.add_argument("--policy", default="binpack", help="binpack, spread, or none (default binpack)")
    parser.add_argument("--rounds", type=int, default=15, help="changes of one endpoint, and of one node (default 15)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    summary = asyncio.run(measure(options.nodes, options.models, options.replicas, options.policy, options.rounds))
    print(msgspec.json.format(msgspec.json.encode(summary)).decode() if options.json else lines(summary))


async def measure(nodes: int, models: int, replicas: int, policy: str, rounds: int) -> dict[str, float]:
    """Place everything, then change one thing at a time."""
    fleet = {keys.node(node.node_id): node for node in _nodes(nodes)}
    asked = {keys.model_request(request.model_uid): request for request in _requests(models, replicas // models)}
    async with _leader(_policy(policy), fleet, asked) as bench:
        await eventually(_placed(bench, models), START_S)
        await bench.quiet()
        placing = max(bench.loop.passes)
        endpoints = {keys.endpoint(each.model_uid, each.replica_id): each for each in _endpoints(bench.plans())}
        await bench.write(endpoints)
        await bench.quiet()
        one_endpoint = [await bench.cost_of({key: _broken(endpoints[key])}) for key in list(endpoints)[:rounds]]
        one_node = [await bench.cost_of({key: _fuller(fleet[key])}) for key in list(fleet)[:rounds]]
        new_models = [await bench.cost_of({keys.model_request(f"new{n}"): _request(f"new{n}", 20, 1)}) for n in range(min(rounds, 5))]
    return {
        "nodes": nodes,
        "models": models,
        "replicas_placed": len(endpoints),
        "place_everything_cpu_ms": round(placing, 1),
        **_figures("change_of_one_endpoint", one_endpoint),
        **_figures("change_of_one_node", one_node),
        **_figures("a_model_of_20_more", new_models),
    }


@asynccontextmanager
async def _leader(placement: Placement | None, *contents: Mapping[str, Value]) -> AsyncIterator[Bench]:
    """A scheduler that leads and finds this in the store."""
    with tempfile.TemporaryDirectory(prefix="nebula-bench-") as folder:
        async with (
            EmbeddedStore(Path(folder), EmbeddedSettings(), time.monotonic, logger) as store,
            following(store, PREFIXES, logger) as mirror,
        ):
            loop = TimedLoop(store, mirror, {"fake": GpuEngine()}, Settings(), logger, time.monotonic, placement)
            loop.passes = []
            bench = Bench(store, mirror, loop)
            for values in contents:
                await bench.write(values)
            await eventually(_sees(mirror, contents), START_S)
            async with background(loop.run()):
                yield bench


def _policy(name: str) -> Placement | None:
    build = plugins.load().builder({}, Path(), Metrics(), None)
    return None if name == "none" else build("placement", name, "--policy")


def _sees(mirror: Mirror, contents: Sequence[Mapping[str, Value]]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return all(mirror.entry(key) for values in contents for key in values)

    return look


def _placed(bench: Bench, models: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return len(bench.plans()) == models

    return look


def _nodes(number: int) -> Iterator[NodeStatus]:
    for n in range(number):
        gpus = tuple(GpuStatus(index=i, name="H100", memory_total_bytes=80 * GIB, memory_used_bytes=GIB // 2) for i in range(GPUS_PER_NODE))
        labels, machine = {"zone": f"z{n % ZONES}"}, MachineStatus(cpus=64)
        yield NodeStatus(node_id=f"n{n:04}", address="127.0.0.1", engines=("fake",), labels=labels, machine=machine, gpus=gpus)


def _requests(models: int, replicas: int) -> Iterator[ModelRequest]:
    for n in range(models):
        yield _request(f"m{n:03}", replicas, GPUS_PER_REPLICA[n % len(GPUS_PER_REPLICA)])


def _request(model_uid: str, replicas: int, gpus: int) -> ModelRequest:
    return ModelRequest(model_uid=model_uid, engine="fake", replicas=replicas, gpus_per_replica=gpus, gpu_memory_bytes=40 * GIB)


def _endpoints(plans: Sequence[PlacementPlan]) -> Iterator[EndpointInfo]:
    return (answer(assignment, READY) for plan in plans for assignment in plan.assignments)


def _broken(endpoint: EndpointInfo) -> EndpointInfo:
    return msgspec.structs.replace(endpoint, state=UNHEALTHY, reason="3 failed probes in a row")


def _fuller(node: NodeStatus) -> NodeStatus:
    """Memory in use is what placement goes by; a node that is only warmer causes no pass."""
    return msgspec.structs.replace(node, gpus=tuple(msgspec.structs.replace(gpu, memory_used_bytes=GIB) for gpu in node.gpus))


def _figures(name: str, costs: Sequence[float]) -> dict[str, float]:
    return {f"{name}_cpu_ms_median": round(statistics.median(costs), 1), f"{name}_cpu_ms_max": round(max(costs), 1)}


if __name__ == "__main__":
    main()
