"""`StepEngine`: continuous batching in steps, as vLLM's scheduler does it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence as Blocks
from math import ceil

from nebula_engine_sim.batch import Batch
from nebula_engine_sim.cost import FEMTO, CostModel
from nebula_engine_sim.job import Happening, Job, Kind
from nebula_engine_sim.kv_cache import KvCache
from nebula_engine_sim.plan import Plan, Work
from nebula_engine_sim.sequence import Sequence
from nebula_engine_sim.sim_engine import SimEngine


class StepEngine(SimEngine):
    """Each step gives every decoding sequence a token, and fills what is left of the token budget with pieces of prompts.

    While all that happens is decoding, many steps are taken at once; the result is exactly that of single steps.
    """

    def __init__(
        self,
        *,
        block_size: int = 16,
        capacity_blocks: int = 25_600,
        max_batched_tokens: int = 8192,
        max_sequences: int = 256,
        cost: CostModel | None = None,
        tokens: bool = False,
        leap: bool = True,
    ) -> None:
        """`tokens`: tell of every token. `leap`: take many steps at once where that changes nothing."""
        super().__init__(block_size, capacity_blocks)
        if not 1 <= max_sequences <= max_batched_tokens:
            raise ValueError("a step has room for at least one sequence, and for a token of each")
        self.cost = cost or CostModel()
        self.max_batched_tokens = max_batched_tokens
        self.cache = KvCache(capacity_blocks)
        self._batch = Batch(self.cache, block_size, max_batched_tokens, max_sequences, self.cost)
        self._tokens = tokens
        self._leap = leap and not tokens
        self._time = 0
        """Femtoseconds at which the step in progress began, or the next one may."""
        self._plan: Plan | None = None
        self._by_id: dict[str, Sequence] = {}
        self._coming: Counter[int] = Counter()
        """Blocks of requests that have no first token yet, and how many want each."""
        self._happened: list[Happening] = []
        self._queries = self._hits = 0

    # --- what drives it

    def submit(self, job: Job, now: float) -> None:
        """Queue it; it can be admitted when the step in progress has ended. It is refused if prompt and answer exceed the cache."""
        if job.request_id in self._by_id:
            raise ValueError(f"the request {job.request_id} is in this engine already")
        if job.prompt_tokens + job.output_tokens - 1 > self.capacity_blocks * self.block_size:
            raise ValueError(f"the request {job.request_id} needs more tokens than the KV cache of {self.capacity_blocks} blocks holds")
        self._run(now, plan_now=False)
        if not self._batch:
            self._time = max(self._time, ceil(now * FEMTO))
        expected = self.cached_tokens(job.blocks, job.prompt_tokens, queued=True)
        self._by_id[job.request_id] = sequence = Sequence(job, now, expected, self.block_size)
        self._batch.waiting.append(sequence)
        self._coming.update(job.blocks)
        self._end_leap()

    def abort(self, request_id: str, now: float) -> None:
        """A waiting one is gone at once, one that the step in progress computes keeps its blocks until that has ended."""
        self._run(now, plan_now=False)
        sequence = self._by_id.pop(request_id, None)
        if sequence is None:
            return
        if not sequence.generated:
            self._arrived(sequence)
        if self._plan and (sequence in self._plan.decoding or sequence in self._plan.prefilling):
            sequence.aborted = True
        elif sequence in self._batch.running:
            self._batch.leave(sequence)
        else:
            self._batch.waiting.remove(sequence)
        self._end_leap()

    def next_at(self) -> float | None:
        """The end of the step in progress, or of as many as can be taken at once."""
        if self._plan:
            return self._after(self._plan.repeat)
        return self._after(0) if self._batch else None

    def advance(self, now: float) -> list[Happening]:
        """Take all steps that end until `now`."""
        self._run(now, plan_now=True)
        happened, self._happened = self._happened, []
        return happened

    # --- what can be asked

    def cached_tokens(self, blocks: Blocks[int], prompt_tokens: int, *, queued: bool = False) -> int:
        """Whole blocks only, and never the prompt's last token."""
        blocks = blocks[: (prompt_tokens - 1) // self.block_size]
        if not queued:
            return self.cache.match(blocks) * self.block_size
        held, coming = self.cache, self._coming
        hits = next((place for place, block in enumerate(blocks) if block not in held and block not in coming), len(blocks))
        return hits * self.block_size

    def backlog_s(self, now: float) -> float:
        """The rest of the step in progress, and the prefill of all before it, slowed by what decodes.

        It does not count the time until sequences end, where all places or all blocks are taken.
        """
        work, decoding = Work(), []
        for sequence in self._batch.running:
            if sequence.decoding:
                decoding.append(sequence.known)
            else:
                work.add(sequence.computed + sequence.chunk, sequence.known)
        for sequence in self._batch.waiting:
            work.add(sequence.expected, sequence.known)
        steps = work.tokens // max(1, self.max_batched_tokens - len(decoding))
        each_s = self.cost.step(0, 0, len(decoding), sum(decoding)) / FEMTO
        own_s = work.tokens * self.cost.prefill_token_s + work.pairs * self.cost.prefill_pair_s
        return self._rest_of_step_s(now) + steps * each_s + own_s

    def prefill_s(self, uncached_tokens: int) -> float:
        """The steps that it takes, its tokens and their pairs, with no cached context before them. One is always computed."""
        return self.cost.prefill_s(max(1, uncached_tokens), self.max_batched_tokens)

    @property
    def waiting(self) -> int:
        """Requests in the queue, preempted ones among them."""
        return len(self._batch.waiting)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._batch.running)

    @property
    def usage(self) -> float:
        """Share of the blocks in use."""
        return self.cache.used / self.cache.capacity

    @property
    def lookups(self) -> tuple[int, int]:
        """Counted when a request is admitted for the first time."""
        return self._queries, self._hits

    # --- the clock

    def _run(self, now: float, *, plan_now: bool) -> None:
        """Take the steps that end until `now`. One that begins at `now` is planned only if `plan_now`: others may still join it."""
        while True:
            if self._plan is None:
                begins = self._after(0)
                if not self._batch or begins > now or (begins == now and not plan_now):
                    return
                self._plan = self._begin()
            steps = self._steps_until(now, self._plan)
            if steps == 0:
                return
            plan, self._plan = self._plan, None
            self._time += plan.lasts(steps)
            for kind, sequence in self._batch.commit(plan, steps):
                self._tell(kind, sequence, steps)

    def _after(self, steps: int) -> float:
        """Seconds at which so many steps, the one in progress first, will have ended."""
        return (self._time + (self._plan.lasts(steps) if self._plan else 0)) / FEMTO

    def _steps_until(self, now: float, plan: Plan) -> int:
        """How many steps of the plan have ended at `now`."""
        if self._after(plan.repeat) <= now:
            return plan.repeat
        return bisect_right(range(1, plan.repeat), now, key=self._after)

    def _end_leap(self) -> None:
        """Something changed: after the step in progress, look again."""
        if self._plan:
            self._plan.repeat = 1

    def _rest_of_step_s(self, now: float) -> float:
        if self._plan is None:
            return 0.0
        done = self._steps_until(now, self._plan)
        return max(0.0, self._after(min(done + 1, self._plan.repeat)) - now)

    # --- what is told and counted

    def _begin(self) -> Plan:
        plan = self._batch.schedule(leap=self._leap)
        at = self._after(0)
        for sequence in plan.preempted:
            self.preemptions_total += 1
            self._happened.append(Happening("preempted", sequence.job.request_id, at))
        for sequence in plan.admitted:
            if sequence.queued_s is None:  # else it was preempted before, and counted then
                sequence.queued_s = max(0.0, at - sequence.submitted)
                sequence.cached = sequence.computed
                self._queries += sequence.job.prompt_tokens
                self._hits += sequence.cached
        return plan

    def _tell(self, kind: Kind, sequence: Sequence, steps: int) -> None:
        name, cached, at = sequence.job.request_id, sequence.cached, self._after(0)
        if kind == "first_token":
            self._arrived(sequence)
            self.prompt_tokens_total += sequence.job.prompt_tokens
            self.cached_tokens_total += cached
            self.generated_tokens_total += 1
            self._happened.append(Happening(kind, name, at, cached, sequence.queued_s or 0.0))
        elif kind == "token":
            self.generated_tokens_total += steps
            if self._tokens:
                self._happened.append(Happening(kind, name, at))
        else:
            del self._by_id[name]
            self._happened.append(Happening(kind, name, at, cached))

    def _arrived(self, sequence: Sequence) -> None:
        """Its blocks are no longer about to come: they are there, or never will be."""
        for block in sequence.job.blocks:
            self._coming[block] -= 1
            if not self._coming[block]:
                del self._coming[block]
