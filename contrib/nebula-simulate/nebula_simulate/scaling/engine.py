"""`BatchEngine`: continuous batching at a few microseconds per request, for days of traffic.

It takes the same steps as `nebula_engine_sim.StepEngine`, at the same costs, and leaves out what scaling does not turn on:

- No prompt shares anything with another one, and nothing is cached.
- A request is admitted when the KV cache has room for its prompt and its whole answer. Engines admit by the prompt and send the youngest
  back to the queue when they run out: near a full cache they have more requests running than this one, and some of them wait twice.

What decodes is a count and a sum: since each step gives every sequence one token, a request ends when the count of steps has reached
what it was at its first token plus its other tokens. A step costs the same however many sequences there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, sqrt
from typing import NamedTuple

from nebula_engine_sim import CostModel

from nebula_simulate.scaling.requests import Request


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """An engine and its machine. The defaults are those of `nebula simulate --model steps`."""

    cost: CostModel = field(default_factory=CostModel)
    kv_tokens: int = 409_600
    max_batched_tokens: int = 8192
    max_sequences: int = 256

    def fits(self, request: Request) -> bool:
        """Whether an empty engine can hold prompt and answer."""
        return request.prompt_tokens + request.output_tokens <= self.kv_tokens

    def most_per_s(self, requests: Sequence[Request]) -> float:
        """Such requests per second that no replica can exceed: what each takes of the arithmetic, or of steps that are all full."""
        cost = self.cost
        work = sum(
            cost.prefill_token_s * each.prompt_tokens
            + cost.prefill_pair_s * each.prompt_tokens * (each.prompt_tokens + 1) / 2
            + (each.output_tokens - 1) * (cost.decode_sequence_s + cost.decode_context_s * (each.prompt_tokens + each.output_tokens / 2))
            for each in requests
        )
        steps = sum(each.prompt_tokens + each.output_tokens - 1 for each in requests) / self.max_batched_tokens
        return len(requests) / max(work, cost.step_s * steps)


class FirstToken(NamedTuple):
    """A request's answer has begun."""

    request_id: int
    at: float


class _Prompt:
    """An admitted request whose prompt is not computed yet."""

    __slots__ = ("chunk", "computed", "request", "request_id")

    def __init__(self, request_id: int, request: Request) -> None:
        self.request_id, self.request = request_id, request
        self.computed = self.chunk = 0


class BatchEngine:
    """One replica. It has no clock: `next_at` says when a step ends, and `advance` ends it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._waiting: deque[tuple[int, Request]] = deque()
        self._prompts: deque[_Prompt] = deque()
        self._ends: list[tuple[int, int, int]] = []
        """Of each decoding sequence: the count of steps at which it ends, `request_id`, and all its tokens."""
        self._steps = 0
        self._context = 0
        """Tokens of all decoding sequences."""
        self._reserved = 0
        self._began = 0.0
        self._first_s = self._longer_s = 0.0
        self.in_flight = 0
        """Requests in the queue and being computed: counted, for every request asks every replica for it."""
        self.generated = 0
        """Tokens of answers so far."""
        self._repeat = 0
        """Steps that are taken at once; 0: it is idle."""
        self.next_at = inf
        """When it next does something by itself."""

    @property
    def running(self) -> int:
        """Requests being computed."""
        return len(self._ends) + len(self._prompts)

    @property
    def pending(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def usage(self) -> float:
        """Share of the KV cache in use."""
        return (self._context + sum(prompt.computed for prompt in self._prompts)) / self._spec.kv_tokens

    def submit(self, request_id: int, request: Request, now: float) -> None:
        """Queue a request, which must fit. It can be admitted when the step in progress has ended."""
        self._waiting.append((request_id, request))
        self.in_flight += 1
        if not self._repeat:
            self._begin(now)
        elif self._repeat > 1:
            self._shorten(now)

    def advance(self) -> tuple[list[FirstToken], int]:
        """End the steps in progress at `next_at`, and begin the next. Returns the first tokens, and how many requests ended."""
        now = self.next_at
        ended = self._decode()
        first = self._prefill(now)
        ended += self._end()
        self._begin(now)
        return first, ended

    def _decode(self) -> int:
        self._steps += self._repeat
        made = self._repeat * len(self._ends)
        self._context += made
        self.generated += made
        return self._end()

    def _prefill(self, now: float) -> list[FirstToken]:
        """Prompts that the step has completed begin to decode with the next one."""
        first = []
        for prompt in self._prompts:
            prompt.computed += prompt.chunk
            prompt.chunk = 0
        while self._prompts and self._prompts[0].computed == self._prompts[0].request.prompt_tokens:
            done = self._prompts.popleft()
            first.append(FirstToken(done.request_id, now))
            tokens = done.request.prompt_tokens + done.request.output_tokens
            heappush(self._ends, (self._steps + done.request.output_tokens - 1, done.request_id, tokens))
            self._context += done.request.prompt_tokens + 1
            self.generated += 1
        return first

    def _end(self) -> int:
        """Let go those that have all their tokens."""
        count = 0
        while self._ends and self._ends[0][0] <= self._steps:
            tokens = heappop(self._ends)[2]
            self._context -= tokens
            self._reserved -= tokens
            count += 1
        self.in_flight -= count
        return count

    def _begin(self, now: float) -> None:
        """Plan the next step: a token for each sequence, then pieces of prompts; without prompts, as many steps as are alike."""
        cost, decoding = self._spec.cost, len(self._ends)
        tokens, pairs = self._take_prompts(self._spec.max_batched_tokens - decoding)
        if not tokens and not decoding:
            self._repeat, self.next_at = 0, inf
            return
        self._began = now
        self._first_s = (
            cost.step_s
            + cost.prefill_token_s * tokens
            + cost.prefill_pair_s * pairs
            + cost.decode_sequence_s * decoding
            + cost.decode_context_s * self._context
        )
        self._longer_s = cost.decode_context_s * decoding
        self._repeat = 1 if tokens else self._ends[0][0] - self._steps
        self.next_at = now + self._lasts(self._repeat)

    def _take_prompts(self, budget: int) -> tuple[int, int]:
        """Fill the step: tokens of prompts, and their pairs."""
        tokens = pairs = 0
        for prompt in self._prompts:
            if not budget:
                break
            budget -= _take(prompt, budget)
            tokens, pairs = tokens + prompt.chunk, pairs + _pairs(prompt)
        while budget and self._waiting and self._admits(self._waiting[0][1]):
            prompt = _Prompt(*self._waiting.popleft())
            self._prompts.append(prompt)
            self._reserved += prompt.request.prompt_tokens + prompt.request.output_tokens
            budget -= _take(prompt, budget)
            tokens, pairs = tokens + prompt.chunk, pairs + _pairs(prompt)
        return tokens, pairs

    def _admits(self, request: Request) -> bool:
        has_place = len(self._ends) + len(self._prompts) < self._spec.max_sequences
        return has_place and self._reserved + request.prompt_tokens + request.output_tokens <= self._spec.kv_tokens

    def _lasts(self, steps: int) -> float:
        """An arithmetic series: each step reads one token more per sequence."""
        return steps * self._first_s + self._longer_s * (steps * (steps - 1) / 2)

    def _shorten(self, now: float) -> None:
        """Somebody waits: after the step in progress, look again."""
        half, elapsed = self._longer_s / 2, now - self._began
        linear = self._first_s - half
        whole = (sqrt(linear * linear + 4 * half * elapsed) - linear) / (2 * half) if half > 0 else elapsed / linear
        self._repeat = min(self._repeat, int(whole) + 1)
        self.next_at = max(now, self._began + self._lasts(self._repeat))


def _take(prompt: _Prompt, budget: int) -> int:
    """Give a prompt what is left of the step, as far as it needs it."""
    prompt.chunk = min(prompt.request.prompt_tokens - prompt.computed, budget)
    return prompt.chunk


def _pairs(prompt: _Prompt) -> int:
    """Each token of the piece looks at all before it, and at itself."""
    return prompt.chunk * prompt.computed + prompt.chunk * (prompt.chunk + 1) // 2
