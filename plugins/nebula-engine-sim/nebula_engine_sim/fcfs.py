"""`FcfsEngine`: first come, first served, at a fixed speed; an engine that can be checked on paper."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from nebula_engine_sim.job import Happening, Job
from nebula_engine_sim.sim_engine import SimEngine


@dataclass(slots=True)
class _Turn:
    """A request in the line."""

    job: Job
    cached: int
    work_s: float
    submitted: float
    ends: float


class FcfsEngine(SimEngine):
    """Computes one prompt after the other, answers at once with all tokens, and keeps blocks in LRU order.

    Since prompts are computed in the order in which they came, what one will find in the cache is known when it is submitted, and
    the cache is kept as the last one in the line will leave it.
    """

    def __init__(self, *, block_size: int = 512, capacity_blocks: int = 4000, tokens_per_s: float = 8000.0) -> None:
        super().__init__(block_size, capacity_blocks)
        if tokens_per_s <= 0:
            raise ValueError("an engine computes more than no tokens per second")
        self.tokens_per_s = tokens_per_s
        self._line: deque[_Turn] = deque()
        self._ids: set[str] = set()
        self._held: OrderedDict[int, None] = OrderedDict()

    def submit(self, job: Job, now: float) -> None:
        """Take a place at the end of the line. The prompt may be larger than the cache."""
        if job.request_id in self._ids:
            raise ValueError(f"the request {job.request_id} is in this engine already")
        cached = self.cached_tokens(job.blocks, job.prompt_tokens)
        work_s = self.prefill_s(job.prompt_tokens - cached)
        self._ids.add(job.request_id)
        self._line.append(_Turn(job, cached, work_s, now, now + self.backlog_s(now) + work_s))
        self._keep(job.blocks)

    def abort(self, request_id: str, now: float) -> None:
        """Those behind it move up; its blocks count as computed all the same."""
        if request_id not in self._ids:
            return
        self._ids.remove(request_id)
        for place, turn in enumerate(self._line):
            if turn.job.request_id == request_id:
                del self._line[place]
                self._move_up(place, min(turn.work_s, max(0.0, turn.ends - now)))
                return

    def next_at(self) -> float | None:
        """When the first in the line is done."""
        return self._line[0].ends if self._line else None

    def advance(self, now: float) -> list[Happening]:
        """Answer all that are done."""
        happened: list[Happening] = []
        while self._line and self._line[0].ends <= now:
            turn = self._line.popleft()
            self._ids.remove(turn.job.request_id)
            self._count(turn)
            queued_s = max(0.0, turn.ends - turn.work_s - turn.submitted)
            happened.append(Happening("first_token", turn.job.request_id, turn.ends, turn.cached, queued_s))
            happened.append(Happening("finished", turn.job.request_id, turn.ends, turn.cached))
        return happened

    def cached_tokens(self, blocks: Sequence[int], prompt_tokens: int, *, queued: bool = False) -> int:
        """What the prompt would find if it were submitted now, `queued` or not: a last block that is not full may be among them."""
        hits = next((place for place, block in enumerate(blocks) if block not in self._held), len(blocks))
        return min(hits * self.block_size, prompt_tokens)

    def backlog_s(self, now: float) -> float:
        """The work of the whole line."""
        return max(0.0, self._line[-1].ends - now) if self._line else 0.0

    def prefill_s(self, uncached_tokens: int) -> float:
        """Tokens ÷ speed."""
        return uncached_tokens / self.tokens_per_s

    @property
    def waiting(self) -> int:
        """All in the line but the first."""
        return max(0, len(self._line) - 1)

    @property
    def running(self) -> int:
        """The first in the line."""
        return min(1, len(self._line))

    @property
    def usage(self) -> float:
        """The share that the first in the line fills."""
        return min(1.0, len(self._line[0].job.blocks) / self.capacity_blocks) if self._line else 0.0

    def _move_up(self, place: int, seconds: float) -> None:
        for index in range(place, len(self._line)):
            self._line[index].ends -= seconds

    def _keep(self, blocks: Sequence[int]) -> None:
        """Touched from the end of the prompt to its start, so that a prompt's end is forgotten first."""
        for block in reversed(blocks):
            self._held[block] = None
            self._held.move_to_end(block)
        while len(self._held) > self.capacity_blocks:
            self._held.popitem(last=False)

    def _count(self, turn: _Turn) -> None:
        self.prompt_tokens_total += turn.job.prompt_tokens
        self.cached_tokens_total += turn.cached
        self.generated_tokens_total += turn.job.output_tokens
