"""One simulation: clients, gateways and engines on one timeline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from nebula_engine_sim import Happening, Job, SimEngine

from nebula_core import PrefixBlocks, RouteRequest
from nebula_core.router.guard import Charge
from nebula_simulate.gateways import MODEL, Gateways
from nebula_simulate.outcome import Outcome
from nebula_simulate.timeline import Timeline
from nebula_simulate.traces import BLOCK_TOKENS
from nebula_simulate.workload import Client, Prompt

HEARTBEAT_S = 3.0
"""Nodes read their engines' metrics this often, as in production."""
BYTES_PER_TOKEN = 4
"""Of the bodies that traces do not have; strategies are told sizes in bytes, as in production."""


@dataclass(slots=True)
class Flight:
    """A request on its way."""

    client: Client
    gateway: int
    charge: Charge
    sent: float
    first_token: float = 0.0


class Replay:
    """Plays clients against engines through gateways. `jobs` is open to baselines while they pick."""

    def __init__(
        self, timeline: Timeline, engines: Mapping[str, SimEngine], gateways: Gateways, jobs: dict[str, Job], rng: Random, ends_s: float
    ) -> None:
        self._timeline, self._engines, self._gateways = timeline, engines, gateways
        self._jobs, self._rng, self._ends_s = jobs, rng, ends_s
        self._flights: dict[str, Flight] = {}
        self._wakes: dict[str, float] = {}
        self._capacity = min(engine.capacity_blocks * engine.block_size for engine in engines.values())
        self._count = 0
        self._expected = 0
        self.outcome = Outcome()

    def run(self, clients: Sequence[Client]) -> Outcome:
        """Replay until all is answered."""
        started = time.perf_counter()
        for place, replica in enumerate(self._engines):
            self._beat(replica)
            self._timeline.at(HEARTBEAT_S * (place + 1) / len(self._engines), lambda replica=replica: self._heartbeat(replica))  # type: ignore[misc]
        for client in clients:
            self._next(client, client.start_s)
        while self._expected and self._timeline.step():
            pass
        return self._close(time.perf_counter() - started)

    def _next(self, client: Client, after: float) -> None:
        """Have the client send what it has next, if anything, its pause after a time."""
        prompt = next(client.prompts, None)
        while prompt is not None and not self._fits(prompt):
            self.outcome.refused += 1
            prompt = next(client.prompts, None)
        if prompt is None or after + prompt.pause_s > self._ends_s:
            return
        self._expected += 1
        self._timeline.at(after + prompt.pause_s, lambda: self._send(client, prompt))

    def _fits(self, prompt: Prompt) -> bool:
        """Whether an engine can hold prompt and answer at once: one that cannot refuses the request."""
        return prompt.tokens + prompt.output_tokens <= self._capacity

    def _send(self, client: Client, prompt: Prompt) -> None:
        self._count += 1
        request_id, now = str(self._count), self._timeline.now
        gateway = self._rng.randrange(len(self._gateways))
        job = self._jobs[request_id] = Job(request_id, prompt.blocks, prompt.tokens, prompt.output_tokens)
        charge = self._gateways.pick(gateway, RouteRequest(request_id, MODEL, "", b"", _prefix(prompt)))
        del self._jobs[request_id]
        self._flights[request_id] = Flight(client, gateway, charge, now)
        replica = charge.candidate.route.replica_id
        self._engines[replica].submit(job, now)
        self._watch(replica)

    def _watch(self, replica: str) -> None:
        """Wake up when the engine next does something."""
        when = self._engines[replica].next_at()
        if when is not None and when < self._wakes.get(replica, float("inf")):
            self._wakes[replica] = when
            self._timeline.at(when, lambda: self._wake(replica, when))

    def _wake(self, replica: str, when: float) -> None:
        if self._wakes.get(replica) != when:
            return  # it has been woken up earlier since
        del self._wakes[replica]
        for happening in self._engines[replica].advance(when):
            self._happened(happening)
        self._watch(replica)

    def _happened(self, happening: Happening) -> None:
        flight = self._flights[happening.request_id]
        if happening.kind == "first_token":
            flight.first_token = happening.at
            flight.charge.first_token()
        elif happening.kind == "finished":
            self._finished(flight, happening)
        else:
            return
        self._gateways.share(flight.gateway)

    def _finished(self, flight: Flight, happening: Happening) -> None:
        del self._flights[happening.request_id]
        flight.charge.finish()
        self.outcome.ttft_s.append(flight.first_token - flight.sent)
        self.outcome.e2e_s.append(happening.at - flight.sent)
        self._expected -= 1
        self._next(flight.client, happening.at)

    def _heartbeat(self, replica: str) -> None:
        self._beat(replica)
        self._timeline.at(self._timeline.now + HEARTBEAT_S, lambda: self._heartbeat(replica))

    def _beat(self, replica: str) -> None:
        self._gateways.set_stats(replica, self._engines[replica].stats(self._timeline.now))

    def _close(self, took_s: float) -> Outcome:
        outcome, engines = self.outcome, self._engines.values()
        outcome.prompt_tokens = sum(engine.prompt_tokens_total for engine in engines)
        outcome.cached_tokens = sum(engine.cached_tokens_total for engine in engines)
        outcome.computed = [engine.prompt_tokens_total - engine.cached_tokens_total for engine in engines]
        outcome.preemptions = sum(engine.preemptions_total for engine in engines)
        outcome.fallbacks = self._gateways.fallbacks
        outcome.until_s, outcome.took_s = self._timeline.now, took_s
        return outcome


def _prefix(prompt: Prompt) -> PrefixBlocks:
    """What a gateway would make of the prompt's body."""
    sizes = (BLOCK_TOKENS * BYTES_PER_TOKEN,) * len(prompt.blocks)
    return PrefixBlocks(prompt.blocks, sizes, prompt.tokens * BYTES_PER_TOKEN)
