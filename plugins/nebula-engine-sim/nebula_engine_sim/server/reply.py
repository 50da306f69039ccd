"""`Reply`: turns what happens to a request into its answer, whole or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from nebula_engine_sim.job import Happening, Job
from nebula_engine_sim.server.answers import Form, usage
from nebula_engine_sim.server.web import Exchange

STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True)
class Wanted:
    """What is to be answered, and how."""

    job: Job
    form: Form
    words: list[str]
    reason: str
    stream: bool
    with_usage: bool


class Reply:
    """One request's answer. `held` tells, by the number of tokens sent, for how many real seconds a stream is to stop; `None`: not."""

    def __init__(self, exchange: Exchange, wanted: Wanted, held: Callable[[int], float | None]) -> None:
        self._exchange, self._wanted, self._held = exchange, wanted, held
        self._sent = 0
        self._cached = 0
        self._stopped: list[Happening] = []
        self._timer: asyncio.TimerHandle | None = None
        if wanted.stream:
            exchange.begin(STREAM)

    def close(self) -> None:
        """The client has left."""
        if self._timer:
            self._timer.cancel()

    def tell(self, happening: Happening) -> None:
        """Something happened to the request."""
        if self._stopped:
            self._stopped.append(happening)
        elif self._wanted.stream:
            self._pass_on(happening)
        elif happening.kind == "finished":
            self._cached = happening.cached_tokens
            self._exchange.respond(200, JSON, self._wanted.form.whole(self._wanted.words, self._wanted.reason, self._usage()))

    def _pass_on(self, happening: Happening) -> None:
        if happening.kind == "preempted":
            return
        hold_s = self._held(self._sent)
        if hold_s is not None:
            self._stopped.append(happening)
            self._timer = asyncio.get_running_loop().call_later(hold_s, self._go_on)
        elif happening.kind == "finished":
            self._finish(happening)
        else:
            self._send_word(first=happening.kind == "first_token")

    def _go_on(self) -> None:
        stopped, self._stopped = self._stopped, []
        for happening in stopped:
            self.tell(happening)

    def _send_word(self, *, first: bool) -> None:
        form, words = self._wanted.form, self._wanted.words
        self._exchange.write((form.role() if first else b"") + form.word(words[self._sent]))
        self._sent += 1

    def _finish(self, happening: Happening) -> None:
        """Whoever tells of no single tokens (`fcfs`) has the rest of them now."""
        self._cached = happening.cached_tokens
        rest = b"".join(map(self._wanted.form.word, self._wanted.words[self._sent :]))
        self._exchange.write(rest + self._wanted.form.last(self._wanted.reason, self._usage() if self._wanted.with_usage else None))
        self._exchange.end()

    def _usage(self) -> dict[str, object]:
        return usage(self._wanted.job.prompt_tokens, self._wanted.job.output_tokens, self._cached)
