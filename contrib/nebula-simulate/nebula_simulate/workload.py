"""Who sends what, and when: a trace at some load, under a seed.

Where a trace has times, they are divided by the load. Where it has none, so many clients are at work at once, load times the number
asked for: each plays sessions of the file, one after the other, and no two the same one until all are played.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from nebula_simulate.traces import BLOCK_TOKENS, Session, Trace

RAMP_S = 600.0
"""Clients of a trace without times begin within this; all at once would be a burst that never was."""
SCOPE = 1 << 32
"""Ids of a session's blocks lie below this."""
ODD, MASK = 0xD6E8FEB86659FD93, (1 << 64) - 1


@dataclass(frozen=True)
class Demand:
    """What is replayed of a trace."""

    trace: Trace
    load: float
    seed: int
    clients: int
    """Sessions at once at load 1, for a trace without times."""
    duration_s: float | None = None
    """How much of the trace, before the load shortens it; without times: how long. `None`: all of it, or an hour."""
    distinct: bool = False
    """No two prompts share anything."""


@dataclass
class Prompt:
    """One request, ready to be sent."""

    pause_s: float
    tokens: int
    output_tokens: int
    ids: Sequence[int]
    scope: int

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Its hashes, made when it is sent: one that no engine can hold may have millions."""
        return hashed(self.ids, self.scope)


@dataclass(frozen=True)
class Client:
    """Somebody who sends one request after the other, each when the one before has been answered."""

    start_s: float
    prompts: Iterator[Prompt]


def clients(demand: Demand) -> list[Client]:
    """Everybody, in order of when they start."""
    found = list(_arrivals(demand)) if demand.trace.timed else list(_agents(demand))
    return sorted(found, key=lambda client: client.start_s)


def ends_s(demand: Demand) -> float:
    """When clients send nothing more; what was sent is answered."""
    if demand.trace.timed:
        return float("inf")
    return 3600.0 if demand.duration_s is None else demand.duration_s


def _arrivals(demand: Demand) -> Iterator[Client]:
    rng, until = Random(demand.seed), float("inf") if demand.duration_s is None else demand.duration_s
    for number, session in enumerate(demand.trace.sessions):
        start = session.start_s + rng.random() * demand.trace.tick_s
        if start < until:
            yield Client(start / demand.load, _prompts(session, number, 0, demand.distinct))


def _agents(demand: Demand) -> Iterator[Client]:
    count = max(1, round(demand.load * demand.clients))
    rng = Random(demand.seed)
    for first in range(count):
        yield Client(rng.uniform(0.0, RAMP_S), _one_after_the_other(demand, first, count))


def _one_after_the_other(demand: Demand, first: int, count: int) -> Iterator[Prompt]:
    """Every `count`-th session of the shuffled file, whatever others have played by then: so that strategies face the same sessions."""
    sessions = demand.trace.sessions
    for number in itertools.count(first, count):
        shuffled, place = divmod(number, len(sessions))
        order = Random(f"{demand.seed} {shuffled}").sample(range(len(sessions)), len(sessions))
        yield from _prompts(sessions[order[place]], number, (number + 1) * SCOPE, demand.distinct)


def _prompts(session: Session, number: int, scope: int, distinct: bool) -> Iterator[Prompt]:
    for place, turn in enumerate(session.turns):
        start = number << 36 | place << 16
        ids: Sequence[int] = range(start, start + turn.prompt_tokens // BLOCK_TOKENS)
        within = 0
        if turn.blocks is not None and not distinct:
            ids, within = turn.blocks, scope
        yield Prompt(turn.pause_s, turn.prompt_tokens, max(1, turn.output_tokens), ids, within)


def hashed(ids: Iterable[int], scope: int = 0) -> tuple[int, ...]:
    """Ids as hashes are: of 64 bits and without a pattern, for strategies choose by their bits. Different ids stay different."""
    return tuple([(mixed := (scope + number) * ODD & MASK) ^ mixed >> 32 for number in ids])
