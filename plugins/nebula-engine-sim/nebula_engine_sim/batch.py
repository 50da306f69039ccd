"""`Batch`: which sequences a step computes, and what becomes of them. It knows no time."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from nebula_engine_sim.cost import CostModel
from nebula_engine_sim.job import Kind
from nebula_engine_sim.kv_cache import KvCache
from nebula_engine_sim.plan import Plan, Work
from nebula_engine_sim.sequence import Sequence


class Batch:
    """The waiting and the running sequences of an engine, and its KV blocks. `schedule` begins a step, `commit` ends it."""

    def __init__(self, cache: KvCache, block_size: int, max_tokens: int, max_sequences: int, cost: CostModel) -> None:
        self.cache = cache
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """In the order in which they were admitted: the youngest is the last, and the first to give way."""
        self._block_size = block_size
        self._max_tokens = max_tokens
        self._max_sequences = max_sequences
        self._cost = cost

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def schedule(self, *, leap: bool) -> Plan:
        """Decide what the step that begins now computes: a token for each that decodes, then prompts; `leap`: as often as possible."""
        preempted = self._make_room()
        plan = Plan([sequence for sequence in self.running if sequence.decoding], preempted=preempted)
        work = Work()
        budget = self._max_tokens - len(plan.decoding)
        for sequence in self.running:
            if not sequence.decoding and budget:
                budget -= self._take_chunk(sequence, budget, plan, work)
        if not preempted:
            self._admit(budget, plan, work)
        context = sum(sequence.known for sequence in plan.decoding)
        plan.first = self._cost.step(work.tokens, work.pairs, len(plan.decoding), context)
        plan.longer = self._cost.context_token * len(plan.decoding)
        if leap and not plan.prefilling and not preempted:
            plan.repeat = self._alike(plan.decoding)
        return plan

    def commit(self, plan: Plan, steps: int) -> Iterator[tuple[Kind, Sequence]]:
        """End so many steps of the plan, and tell what came of it."""
        for sequence in plan.decoding:  # all of them before any ends: in single steps, too, blocks are taken before others are given up
            sequence.grow(sequence.growth(steps, self._block_size), self.cache)
        for sequence in plan.decoding:
            sequence.computed += steps
            sequence.publish(sequence.computed, self.cache, self._block_size)
            yield from self._generate(sequence, steps)
        for sequence in plan.prefilling:
            sequence.computed += sequence.chunk
            sequence.chunk = 0
            if sequence.computed == sequence.known:
                yield from self._generate(sequence, 1)
            elif sequence.aborted:
                self.leave(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Take a running sequence out."""
        self.running.remove(sequence)
        sequence.release(self.cache)

    def _generate(self, sequence: Sequence, count: int) -> Iterator[tuple[Kind, Sequence]]:
        if not sequence.aborted:
            kind: Kind = "token" if sequence.generated else "first_token"
            sequence.generated += count
            yield kind, sequence
        if not sequence.ended:
            return
        self.leave(sequence)
        if not sequence.aborted:
            yield "finished", sequence

    def _make_room(self) -> list[Sequence]:
        """Every decoding sequence gets the block that its next token needs; if there is none, the youngest give way and wait again."""
        preempted = []
        place = 0
        while place < len(self.running):
            sequence = self.running[place]
            need = sequence.growth(1, self._block_size) if sequence.decoding else 0
            if need > self.cache.available:
                preempted.append(self._preempt())
                continue
            if need:
                sequence.grow(need, self.cache)
            place += 1
        return preempted

    def _preempt(self) -> Sequence:
        sequence = self.running.pop()
        sequence.release(self.cache)
        self.waiting.appendleft(sequence)
        return sequence

    def _admit(self, budget: int, plan: Plan, work: Work) -> None:
        """Take waiting sequences in their order while there are tokens, places and blocks."""
        while self.waiting and budget and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            if not sequence.admit(self.cache, self._block_size):
                return
            self.running.append(self.waiting.popleft())
            plan.admitted.append(sequence)
            budget -= self._take_chunk(sequence, budget, plan, work)

    def _take_chunk(self, sequence: Sequence, budget: int, plan: Plan, work: Work) -> int:
        """Give it what is left of the budget, as far as it needs it. Its blocks can be found from now on, as in vLLM."""
        sequence.chunk = min(sequence.known - sequence.computed, budget)
        upto = sequence.computed + sequence.chunk
        work.add(sequence.computed, upto)
        sequence.publish(upto, self.cache, self._block_size)
        plan.prefilling.append(sequence)
        return sequence.chunk

    def _alike(self, decoding: list[Sequence]) -> int:
        """Steps until a sequence ends, a block becomes findable, or blocks run out: until then each is like the one before.

        Waiting requests change nothing: one that is refused now is refused until blocks or places become free.
        """
        size = self._block_size
        steps = min(sequence.job.output_tokens - sequence.generated for sequence in decoding)
        for sequence in decoding:
            if sequence.seen < len(sequence.blocks):
                steps = min(steps, size - sequence.computed % size)

        def growth(count: int) -> int:
            return sum(sequence.growth(count, size) for sequence in decoding)

        available = self.cache.available
        return steps if growth(steps) <= available else bisect_right(range(1, steps), available, key=growth)
