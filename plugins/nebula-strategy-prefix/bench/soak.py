"""Sends distinct prompts without end through a real router, and prints what the memory of the process grows to.

    python bench/soak.py --decisions 2000000

Prompts of mixed sizes share nothing. Time is virtual, and engines compute one prompt after the other. A request in so many is lost before
its first token, and now and then a replica starts anew, so that every way in which a request ends is gone. What a row adds to the last one
is growth: it has to come to its end.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import random
from heapq import heappop, heappush
from pathlib import Path
from time import process_time

from nebula_strategy_prefix import Prefix, PrefixSettings

from nebula_core import Context, EndpointStats, Route, RouteRequest
from nebula_core.metrics import Metrics
from nebula_core.router.guard import Charge
from nebula_core.router.router import Router
from nebula_core.router.routes import ModelRoute
from nebula_core.router.table import RoutingTable

KIB = 1024
PATH = "/v1/chat/completions"
HEAD = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%032x '
TEXT = b"every word of it is the same but the first, " * (512 * KIB // 44 + 1)
PAGE = os.sysconf("SC_PAGE_SIZE")
LOST = 50
"""One request in so many is lost before its first token."""
BYTES_PER_S = 200_000
"""What an engine computes of prompts."""
RESTART = 50_000
"""After so many requests a replica starts anew."""


class World:
    """A fleet behind a router, in virtual time, and the requests on it."""

    def __init__(self, replicas: int, kv_tokens: int, rate: float, settings: PrefixSettings) -> None:
        self.now, self.sent = 1000.0, 0
        logger, metrics = logging.getLogger("soak"), Metrics()
        self.strategy = Prefix(Context(logger=logger, metrics=metrics, clock=self._clock), settings)
        self._table, self._incarnations, self._kv_tokens = RoutingTable(), [1] * replicas, kv_tokens
        self._router = Router(
            self._table, {"prefix": self.strategy}, default="prefix", fallback="prefix", clock=self._clock, metrics=metrics, logger=logger
        )
        self._open, self._free_at, self._pause_s = list[tuple[float, int, Charge]](), dict[str, float](), 1 / rate
        self._random = random.Random(0)
        self._update()

    def send(self) -> None:
        """One request more, of 0.5 to 512 KiB, each order of magnitude as often."""
        self.sent += 1
        sent_at = self.now + self._pause_s
        while self._open and self._open[0][0] <= sent_at:
            self.now, _, done = heappop(self._open)
            self._end(done)
        self.now = sent_at
        size = int(KIB / 2 * math.exp(self._random.random() * math.log(KIB)))
        body = HEAD % self._random.getrandbits(128) + TEXT[:size] + b'"}]}'
        charge = self._router.pick(self._table.models["m"], RouteRequest(f"r{self.sent}", "m", PATH, body))
        assert charge is not None
        replica_id = charge.candidate.route.replica_id
        done_at = self._free_at[replica_id] = max(self.now, self._free_at.get(replica_id, 0.0)) + len(body) / BYTES_PER_S
        heappush(self._open, (done_at, self.sent, charge))
        if self.sent % RESTART == 0:
            self._incarnations[self._random.randrange(len(self._incarnations))] += 1
            self._update()

    def _end(self, charge: Charge) -> None:
        if self._random.randrange(LOST) == 0:
            charge.fail("timeout")
            return
        charge.first_token()
        charge.finish()

    def _update(self) -> None:
        routes = [
            Route(model_uid="m", replica_id=str(number), assignment_version="a", incarnation=incarnation, url="")
            for number, incarnation in enumerate(self._incarnations)
        ]
        self._router.update([ModelRoute(model_uid="m", routes=tuple(routes))])
        for candidate in self._table.models["m"].candidates:
            candidate.set_stats(EndpointStats(kv_capacity_tokens=self._kv_tokens))

    def _clock(self) -> float:
        return self.now


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def main() -> None:
    """Print a row after each tenth of the decisions."""
    options = parse()
    settings = PrefixSettings(max_blocks=options.max_blocks) if options.max_blocks else PrefixSettings()
    world = World(options.replicas, options.kv_tokens, options.rate, settings)
    for _ in range(100):
        world.send()
    gc.collect()
    before = resident_mb()
    print(f"at most {settings.max_blocks} blocks; {options.replicas} replicas of {options.kv_tokens} tokens")
    print(" decisions   virtual h     blocks   added MB   MB per million blocks   CPU µs each")
    for _ in range(options.rows):
        began = process_time()
        for _ in range(options.decisions // options.rows):
            world.send()
        spent = process_time() - began
        blocks, added = len(world.strategy._fleets["m"].index), resident_mb() - before
        print(
            f"{world.sent:10} {(world.now - 1000) / 3600:11.2f} {blocks:10} {added:10.1f} {added * 1e6 / blocks:23.0f}"
            f" {spent * 1e6 * options.rows / options.decisions:13.1f}",
            flush=True,
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--kv-tokens", type=int, default=409_600, help="KV cache of each replica (default 409600)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per virtual second (default 100)")
    parser.add_argument("--max-blocks", type=int, help="the bound (default: the strategy's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
