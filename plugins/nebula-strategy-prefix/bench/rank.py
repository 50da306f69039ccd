"""Replays a trace through the strategy and some baselines in virtual time, and prints the times to first token.

    python bench/rank.py conversation_trace.jsonl --loads 0.5,1,1.5,2 --seeds 3 [--gateways 4] [--distinct]

The trace is Mooncake's (https://github.com/kvcache-ai/Mooncake, FAST25-release/traces): a JSON object per line with `timestamp` (ms),
`input_length` (tokens) and `hash_ids` (of 512-token blocks). WEKA's agent sessions (https://github.com/callanjfox/kv-cache-tester,
decompressed) are understood too; they have no common clock, so that their starts are spread over an hour.

Engines compute one prompt after the other at a fixed speed and decode for nothing; their caches are LRU. The strategy is the one that
serves, behind the router that serves: it is told events and no more, and does not know the engines' speed. An `oracle` knows each
engine's true cache and queue and takes the least of wait + own work × its factor.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import math
import os
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from nebula_strategy_prefix import Prefix, PrefixSettings

from nebula_core import Candidate, Context, EndpointStats, Pick, Route, RouteEvent, RouteRequest, Strategy
from nebula_core.metrics import Metrics
from nebula_core.router.candidate import ModelRoute
from nebula_core.router.prefix import PrefixBlocks
from nebula_core.router.router import Router
from nebula_core.router.table import RoutingTable

BYTES_PER_TOKEN = 4
TICK_S = 3.0
"""Mooncake's timestamps are quantised to about this."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Arrival:
    """One request of a trace."""

    at: float
    tokens: int
    hashes: tuple[int, ...]
    block_tokens: int

    def blocks(self) -> PrefixBlocks:
        """What a gateway would make of its body."""
        whole = min(len(self.hashes), self.tokens // self.block_tokens)
        return PrefixBlocks(self.hashes[:whole], (self.block_tokens * BYTES_PER_TOKEN,) * whole, self.tokens * BYTES_PER_TOKEN)


def read(path: Path, seed: int, load: float, distinct: bool = False) -> list[Arrival]:
    """The trace at `load` times its own rate, in order of time. A broken line is named."""
    rng = random.Random(seed)
    arrivals: list[Arrival] = []
    with path.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                arrivals += _weka(row, number, rng, load) if "requests" in row else [_mooncake(row, rng, load)]
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(f"{path}, line {number}: {error!r}") from error
    arrivals.sort(key=lambda arrival: arrival.at)
    if distinct:
        arrivals = [replace(arrival, hashes=tuple((n << 20) + i for i in range(len(arrival.hashes)))) for n, arrival in enumerate(arrivals)]
    return arrivals


def _mooncake(row: dict, rng: random.Random, load: float) -> Arrival:
    return Arrival((row["timestamp"] / 1000 + rng.random() * TICK_S) / load, row["input_length"], tuple(row["hash_ids"]), 512)


def _weka(row: dict, number: int, rng: random.Random, load: float) -> Iterator[Arrival]:
    """Hashes are local to a session, so that the session's number goes into them. Every 8th block stands for itself and those before."""
    start = rng.random() * HOUR_S
    for request in row["requests"]:
        if "hash_ids" in request and start + request["t"] < HOUR_S:
            hashes = tuple((number << 32) + block for block in request["hash_ids"][7::8])
            yield Arrival((start + request["t"]) / load, request["in"], hashes, 512)


@dataclass
class Engine:
    """First come, first served, at a fixed speed; blocks in LRU order, touched from the end of a prompt to its start."""

    blocks: int
    speed: float
    free_at: float = 0.0
    worked: float = 0.0
    held: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def uncached(self, arrival: Arrival) -> int:
        """Tokens it would have to compute."""
        hits = next((i for i, block in enumerate(arrival.hashes) if block not in self.held), len(arrival.hashes))
        return max(0, arrival.tokens - hits * arrival.block_tokens)

    def cost(self, arrival: Arrival, now: float, factor: float) -> float:
        """What an oracle minimises."""
        return max(0.0, self.free_at - now) + self.uncached(arrival) / self.speed * factor

    def serve(self, arrival: Arrival, now: float) -> float:
        """Take a request; returns when its first token comes."""
        work = self.uncached(arrival) / self.speed
        self.free_at = max(now, self.free_at) + work
        self.worked += work
        for block in reversed(arrival.hashes):
            self.held[block] = None
            self.held.move_to_end(block)
        while len(self.held) > self.blocks:
            self.held.popitem(last=False)
        return self.free_at


Choose = Callable[[Sequence[Candidate], "World"], int]


@dataclass
class World:
    """What a baseline may look at, the truth included."""

    engines: list[Engine]
    rng: random.Random
    now: float = 0.0
    arrival: Arrival | None = None
    turn: int = 0

    def clock(self) -> float:
        """Virtual seconds."""
        return self.now


class Baseline(Strategy):
    """A rule as a strategy; candidates stand in the engines' order."""

    def __init__(self, world: World, choose: Choose) -> None:
        self.world, self.choose = world, choose

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick:
        """By the rule."""
        self.world.turn += 1
        return Pick(candidates[self.choose(candidates, self.world)], "baseline")


def _random(candidates: Sequence[Candidate], world: World) -> int:
    return world.rng.randrange(len(candidates))


def _round_robin(candidates: Sequence[Candidate], world: World) -> int:
    return world.turn % len(candidates)


def _least_pending(candidates: Sequence[Candidate], world: World) -> int:
    count = len(candidates)
    return min(range(count), key=lambda i: (candidates[i].load, (i - world.turn) % count))


def _oracle(factor: float) -> Choose:
    def choose(candidates: Sequence[Candidate], world: World) -> int:
        assert world.arrival is not None
        costs = [engine.cost(world.arrival, world.now, factor) for engine in world.engines]
        return costs.index(min(costs))

    return choose


BASELINES: dict[str, Choose] = {
    "random": _random,
    "round_robin": _round_robin,
    "least_pending": _least_pending,
    "oracle": _oracle(1),
    "oracle_x3": _oracle(3),
}


class Shared(Strategy):
    """A gateway's strategy that also hears, late, what the others' saw."""

    def __init__(self, inner: Strategy, tell: Callable[[Strategy, RouteEvent], None]) -> None:
        self.inner, self.tell = inner, tell

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        """By the strategy itself."""
        return self.inner.select(request, candidates)

    def observe(self, event: RouteEvent) -> None:
        """At once to its own, later to the others."""
        self.inner.observe(event)
        self.tell(self.inner, event)


class Simulation:
    """One replay. Things to come lie in a heap by their time."""

    def __init__(self, options: argparse.Namespace, seed: int, strategy: str) -> None:
        self.world = World([Engine(options.blocks, options.speed) for _ in range(options.replicas)], random.Random(seed))
        self.options = options
        self.todo: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.hit_tokens = 0
        self.strategies: list[Strategy] = []
        self.routers = [self._router(strategy) for _ in range(options.gateways)]

    def _router(self, name: str) -> Router:
        logger, metrics = logging.getLogger("rank"), Metrics()
        made: Strategy
        if name == "prefix":
            settings = PrefixSettings(bytes_per_token=BYTES_PER_TOKEN, decisions=0)
            inner = Prefix(Context(logger=logger, metrics=metrics, clock=self.world.clock), settings)
            self.strategies.append(inner)
            made = Shared(inner, self._tell) if self.options.gateways > 1 else inner
        else:
            made = Baseline(self.world, BASELINES[name])
        table = RoutingTable()
        routes = [
            Route(model_uid="m", replica_id=str(i), assignment_version="a", incarnation=1, url="") for i in range(len(self.world.engines))
        ]
        table.update([ModelRoute(model_uid="m", routes=tuple(routes))])
        stats = EndpointStats(kv_capacity_tokens=self.options.blocks * 512)
        for candidate in table.models["m"].candidates:
            candidate.set_stats(stats)
        return Router(table, {"s": made}, default="s", fallback="s", clock=self.world.clock, metrics=metrics, logger=logger)

    def later(self, at: float, act: Callable[[], None]) -> None:
        """Do something at a time."""
        self.count += 1
        heapq.heappush(self.todo, (at, self.count, act))

    def run(self, arrivals: Sequence[Arrival]) -> list[float]:
        """Replay; returns each request's time to first token."""
        times: list[float] = []
        for number, arrival in enumerate(arrivals):
            self._until(arrival.at)
            times.append(self._send(number, arrival))
        self._until(math.inf)
        return times

    def _until(self, at: float) -> None:
        while self.todo and self.todo[0][0] <= at:
            self.world.now, _, act = heapq.heappop(self.todo)
            act()
        self.world.now = at

    def _send(self, number: int, arrival: Arrival) -> float:
        world = self.world
        world.arrival = arrival
        router = self.routers[world.rng.randrange(len(self.routers))]
        charge = router.pick(router.table.models["m"], RouteRequest(str(number), "m", "", b"", arrival.blocks()))
        assert charge is not None
        engine = world.engines[int(charge.candidate.route.replica_id)]
        self.hit_tokens += arrival.tokens - engine.uncached(arrival)
        first = engine.serve(arrival, world.now)

        def answered() -> None:
            charge.first_token()
            charge.finish()
            self._share(charge.candidate)

        self.later(first, answered)
        self._share(charge.candidate)
        return first - world.now

    def _share(self, candidate: Candidate) -> None:
        """The other gateways hear how many requests this one has there."""
        if len(self.routers) == 1:
            return

        def arrive() -> None:
            same = [router.table.replica("m", candidate.route.replica_id) for router in self.routers]
            total = sum(one.charged for one in same if one is not None)
            for one in same:
                if one is not None and one is not candidate:
                    one.set_charged_elsewhere(total - one.charged)

        self.later(self.world.now + self.options.delay, arrive)

    def _tell(self, teller: Strategy, event: RouteEvent) -> None:
        def arrive() -> None:
            for strategy in self.strategies:
                if strategy is not teller:
                    strategy.observe(event)

        if not self.options.silent:
            self.later(self.world.now + self.options.delay, arrive)


def measure(options: argparse.Namespace, load: float, name: str) -> dict[str, float]:
    """The medians over the seeds."""
    rows = []
    for seed in range(options.seed, options.seed + options.seeds):
        arrivals = read(options.trace, seed, load, options.distinct)
        simulation = Simulation(options, seed, name)
        times = sorted(simulation.run(arrivals))
        worked = [engine.worked for engine in simulation.world.engines]
        rows.append(
            {
                "token_hit_rate": simulation.hit_tokens / sum(arrival.tokens for arrival in arrivals),
                "imbalance": max(worked) * len(worked) / sum(worked),
                **{f"ttft_p{p}_s": times[int(p / 100 * (len(times) - 1))] for p in (50, 90, 99)},
                "ttft_mean_s": sum(times) / len(times),
            }
        )
    return {key: median(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    """Print a line per load and strategy; with `--json`, a JSON object each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?", default=os.environ.get("TRACE"), help="or the environment variable TRACE")
    parser.add_argument("--loads", default="0.5,1,1.5,2", help="times the trace's own rate")
    parser.add_argument("--strategies", default=",".join([*BASELINES, "prefix"]))
    parser.add_argument("--seeds", type=int, default=1, help="how many; medians are printed")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=4000, help="KV cache of a replica, in blocks of 512 tokens")
    parser.add_argument("--speed", type=float, default=8000.0, help="tokens per second")
    parser.add_argument("--gateways", type=int, default=1, help="each request comes to one of so many")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds until a gateway hears of another's events")
    parser.add_argument("--silent", action="store_true", help="gateways tell each other their charges, but no events")
    parser.add_argument("--distinct", action="store_true", help="no two requests share anything")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.trace is None:
        parser.error("name a trace file")
    for load in map(float, options.loads.split(",")):
        for name in options.strategies.split(","):
            row = measure(options, load, name)
            if options.json:
                print(json.dumps({"strategy": name, "load": load, **row}))
            else:
                print(f"load {load:<5} {name:14}", *(f"{key.removeprefix('ttft_')} {value:<9.3f}" for key, value in row.items()))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
