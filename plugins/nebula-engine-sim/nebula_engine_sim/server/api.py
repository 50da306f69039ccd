"""`Api`: vLLM's routes in front of one simulated engine."""

from __future__ import annotations

import itertools
import time
from functools import partial
from hmac import compare_digest
from math import isinf

import msgspec

from nebula_engine_sim.arguments import SimArgs
from nebula_engine_sim.job import Happening, Job
from nebula_engine_sim.server.answers import Form, error
from nebula_engine_sim.server.live import MAX_SLEEP_S, LiveEngine
from nebula_engine_sim.server.metrics import MetricsPage, Passage
from nebula_engine_sim.server.prompt import Body, Prompt, WrongField, answer, render
from nebula_engine_sim.server.reply import JSON, Reply, Wanted
from nebula_engine_sim.server.web import Exchange

TEXT = "text/plain; version=0.0.4; charset=utf-8"
COMPLETIONS = {"/v1/chat/completions": True, "/v1/completions": False}
"""Route → whether it is a chat."""
_BODY = msgspec.json.Decoder(Body)


class Api:
    """Answers requests, and breaks down when the timeline says so."""

    def __init__(self, live: LiveEngine, model: str, key: str, arguments: SimArgs) -> None:
        self._live, self._model, self._key, self._arguments = live, model, key, arguments
        self._metrics = MetricsPage(live.engine, model, len(arguments.loras))
        self._passages: dict[str, Passage] = {}
        self._numbers = itertools.count()
        self._frozen = b""
        self._created = int(time.time())

    def handle(self, exchange: Exchange) -> None:
        """Answer now, or when a hang is over."""
        elapsed = self._live.elapsed()
        hang = self._live.timeline.now("hang", elapsed)
        if hang is None:
            self._route(exchange, elapsed)
        elif not isinf(hang.ends_s):
            self._live.later(hang.ends_s, partial(self.handle, exchange))

    def freeze(self) -> None:
        """A fault `frozen_metrics` begins: keep the page as it is."""
        self._frozen = self._page(self._live.elapsed())

    def _route(self, exchange: Exchange, elapsed: float) -> None:
        match exchange.method, exchange.path:
            case "GET", "/health":
                exchange.respond(200, TEXT, b"")
            case "GET", "/metrics":
                frozen = self._frozen and self._live.timeline.now("frozen_metrics", elapsed)
                exchange.respond(200, TEXT, self._frozen if frozen else self._page(elapsed))
            case _, path if path.startswith("/v1/") and not self._allowed(exchange):
                exchange.respond(401, JSON, error("the API key is missing or wrong", "Unauthorized", 401))
            case "GET", "/v1/models":
                exchange.respond(200, JSON, self._models())
            case "POST", path if path in COMPLETIONS:
                self._complete(exchange, elapsed)
            case method, path:
                _refuse(exchange, 404, f"the simulated engine has no {method} {path}", "NotFoundError")

    def _allowed(self, exchange: Exchange) -> bool:
        sent = exchange.headers.get("authorization", "")
        return not self._key or compare_digest(sent.encode(), f"Bearer {self._key}".encode())

    def _complete(self, exchange: Exchange, elapsed: float) -> None:
        if fault := self._live.timeline.now("errors", elapsed):
            self._metrics.ended("error")
            _refuse(exchange, fault.status, "a fault on the timeline of the simulated engine", "InternalServerError")
            return
        try:
            self._start(exchange, _BODY.decode(exchange.body), chat=COMPLETIONS[exchange.path])
        except LookupError as unknown:
            _refuse(exchange, 404, str(unknown.args[0]), "NotFoundError")
        except WrongField as wrong:
            _refuse(exchange, 400, str(wrong), "BadRequestError", wrong.field)
        except ValueError as wrong:  # that of msgspec for a body that is none, too
            _refuse(exchange, 400, str(wrong), "BadRequestError")

    def _start(self, exchange: Exchange, body: Body, *, chat: bool) -> None:
        """Raises `LookupError` for an unknown model, `ValueError` for a request that is wrong or too long."""
        wanted = self._wanted(body, chat=chat)
        name = wanted.job.request_id
        passage = self._passages[name] = Passage(wanted.job, self._live.now())
        reply = Reply(exchange, wanted, self._held_s)
        exchange.on_close = partial(self._left, name, reply)

        def tell(happening: Happening) -> None:
            self._metrics.observe(passage, happening)
            if happening.kind == "finished":
                self._passages.pop(name, None)
                self._metrics.ended(wanted.reason)
            reply.tell(happening)

        self._live.submit(wanted.job, tell)

    def _wanted(self, body: Body, *, chat: bool) -> Wanted:
        model = body.model or self._model
        if model != self._model and model not in self._arguments.loras:
            raise LookupError(f"the model `{model}` does not exist.")
        if (body.messages is None) if chat else (body.prompt is None):
            field = "messages" if chat else "prompt"
            raise WrongField(field, f"the request has no {field}")
        if body.n not in (None, 1):
            raise WrongField("n", f"the simulated engine gives one answer: n has to be 1, got {body.n}")
        prompt = Prompt(render(body), "" if model == self._model else model)
        room = self._arguments.longest - prompt.tokens
        if room < 1:
            raise ValueError(
                f"the prompt has {prompt.tokens} tokens, and this model's maximum is {self._arguments.longest} with the answer"
            )
        words, reason = answer(prompt, body, self._arguments.seed, self._arguments.answer_tokens, room)
        number = f"{'chatcmpl' if chat else 'cmpl'}-{next(self._numbers)}"
        form = Form(number, model, int(time.time()), chat=chat)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return Wanted(self._job(number, prompt, words), form, words, reason, bool(body.stream), with_usage)

    def _job(self, number: str, prompt: Prompt, words: list[str]) -> Job:
        size = self._live.engine.block_size
        blocks = prompt.blocks(size, "".join(words).encode())
        own = len(prompt.text) // (size * 4)
        return Job(number, blocks[:own], prompt.tokens, len(words), prompt.lora, blocks[own:])

    def _left(self, name: str, reply: Reply) -> None:
        reply.close()
        if self._passages.pop(name, None):
            self._metrics.ended("abort")
        self._live.abort(name)

    def _held_s(self, sent: int) -> float | None:
        elapsed = self._live.elapsed()
        stall = self._live.timeline.now("stall", elapsed)
        if stall is None or sent < stall.after_tokens:
            return None
        return MAX_SLEEP_S if isinf(stall.ends_s) else self._live.real_s(stall.ends_s - elapsed)

    def _models(self) -> bytes:
        own = {"object": "model", "created": self._created, "owned_by": "nebula-engine-sim"}
        base = {"id": self._model, **own, "root": self._model, "parent": None, "max_model_len": self._arguments.longest}
        loras = [{"id": name, **own, "root": name, "parent": self._model} for name in self._arguments.loras]
        return msgspec.json.encode({"object": "list", "data": [base, *loras]})

    def _page(self, elapsed: float) -> bytes:
        lie = self._live.timeline.now("lying_metrics", elapsed)
        waiting = {passage.job.lora for passage in self._passages.values() if not passage.first} - {""}
        running = {passage.job.lora for passage in self._passages.values() if passage.first} - {""}
        return self._metrics.page(waiting, running, time.time(), lie.values if lie else {})


def _refuse(exchange: Exchange, status: int, message: str, kind: str, field: str | None = None) -> None:
    exchange.respond(status, JSON, error(message, kind, status, field))
