"""Prints what a decision costs, from the raw bytes of a request to the choice, and what the index weighs.

    python bench/decision_cost.py

Requests are turns of as many conversations as fit, which all share one system prompt, so that every replica holds something of each.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tracemalloc
from statistics import median
from time import monotonic, perf_counter
from typing import Literal

from nebula_strategy_prefix import Prefix, PrefixSettings
from nebula_strategy_prefix.index import PrefixIndex

from nebula_core import Context, EndpointStats, RouteEvent, RouteRequest
from nebula_core.router.blocks import PrefixBlocks
from nebula_core.router.candidate import Candidate
from nebula_core.router.prefix import hash_prefix
from nebula_core.testing.strategy import make_candidates

Kind = Literal["charged", "first_token", "finished"]
KINDS: tuple[Kind, ...] = ("charged", "first_token", "finished")
PATH = "/v1/chat/completions"
KIB = 1024
SYSTEM = 2 * KIB
CONVERSATIONS = 64


def body(rng: random.Random, size: int) -> bytes:
    """A conversation of about `size` bytes, in the order of fields that the `openai` client writes."""
    words = ["the", "routing", "of", "requests", "depends", "on", "what", "a", "replica", "holds", "and", "how", "busy", "it", "is,"]
    system = " ".join(random.Random(0).choices(words, k=SYSTEM // 6))
    messages = [{"role": "system", "content": system}]
    while (left := size - len(json.dumps(messages))) > 0:
        messages.append({"role": "user", "content": " ".join(rng.choices(words, k=max(1, min(left, 4 * KIB) // 6)))})
    return json.dumps({"messages": messages, "model": "m", "max_tokens": 100, "stream": True}, separators=(",", ":")).encode()


def fill(strategy: Prefix, candidates: list[Candidate], bodies: list[bytes]) -> None:
    """Let replicas hold the conversations, a few each, and be busy unevenly."""
    rng = random.Random(1)
    for candidate in candidates:
        for number in range(4):
            request_id = f"{candidate.route.replica_id}-{number}"
            strategy.observe(event("charged", candidate, request_id, hash_prefix(PATH, rng.choice(bodies))))
            candidate.charge()
            if rng.random() < 0.8:
                strategy.observe(event("first_token", candidate, request_id))


def event(kind: Kind, candidate: Candidate, request_id: str, blocks: PrefixBlocks | None = None) -> RouteEvent:
    """What a router would tell."""
    return RouteEvent(
        kind=kind,
        model_uid="m",
        replica_id=candidate.route.replica_id,
        incarnation=1,
        at=monotonic(),
        request_id=request_id,
        prefix_blocks=blocks,
    )


def decide(count: int, size: int, rounds: int) -> tuple[float, float, float]:
    """Median µs of hashing, of the whole decision, and of taking over its charge and first token."""
    rng = random.Random(size)
    bodies = [body(rng, size) for _ in range(CONVERSATIONS)]
    strategy = Prefix(Context(logger=logging.getLogger("bench")), PrefixSettings(kv_capacity_tokens=4_000_000))
    candidates = make_candidates(count)
    for candidate in candidates:
        candidate.set_stats(EndpointStats(kv_capacity_tokens=4_000_000))
    fill(strategy, candidates, bodies)
    hashing, whole, events = [], [], []
    for turn in range(rounds):
        prompt, request = bodies[turn % CONVERSATIONS], RouteRequest(f"r{turn}", "m", PATH, bodies[(turn + 7) % CONVERSATIONS])
        start = perf_counter()
        hash_prefix(PATH, prompt)
        between = perf_counter()
        pick = strategy.select(request, candidates)
        end = perf_counter()
        for kind in KINDS:
            strategy.observe(event(kind, pick.candidate, request.request_id, request.prefix_blocks))
        hashing.append(between - start)
        whole.append(end - between)
        events.append(perf_counter() - end)
    return median(hashing) * 1e6, median(whole) * 1e6, median(events) * 1e6


def weigh(blocks: int) -> float:
    """MB of an index with so many blocks, each held by one of 8 replicas."""
    rng = random.Random(0)
    tracemalloc.start()
    index = PrefixIndex()
    slots = [index.add() for _ in range(8)]
    for number in range(blocks // 50):
        index.touch(slots[number % 8], [rng.getrandbits(64) for _ in range(50)], [1024] * 50, 1 << 60, 1 << 60)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=200_000)
    options = parser.parse_args()
    print("candidates   prompt KiB   hash µs   decision µs, hash included   events µs")
    for count, size in ((8, 4), (8, 32), (8, 512), (64, 32), (256, 4), (256, 32), (256, 512)):
        hashing, whole, events = decide(count, size * KIB, options.rounds)
        print(f"{count:10} {size:12} {hashing:9.1f} {whole:28.1f} {events:11.1f}")
    print(f"index: {weigh(options.blocks) * 1e6 / options.blocks:.0f} MB per million blocks, each held by one replica")


if __name__ == "__main__":
    main()
