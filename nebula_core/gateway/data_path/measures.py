"""What is counted of every request, with each model's instruments bound once."""

from __future__ import annotations

from nebula_core.metrics import Metrics, Value

SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
"""One token's time is some milliseconds, and its objectives lie between 10 and 200 ms."""
CLIENT_GONE = 499
"""Stands for a status where the client left before it was sent one."""
ERROR = 400
"""Statuses from here on are no answers of a model."""


Tokens = tuple[int | None, int | None, bool]
"""Prompt tokens, completion tokens, and whether the latter are a count of events, for want of a `usage`; `None` where nothing says."""


def token_s(duration_s: float, first_token_s: float, tokens: int) -> float | None:
    """Time per token after the first, of an answer that came as events; `None` if there was but one."""
    return (duration_s - first_token_s) / (tokens - 1) if tokens > 1 else None


class _Series:
    """One model's instruments."""

    __slots__ = ("completion", "completion_estimated", "duration", "first_token", "prompt", "route", "token")

    def __init__(self, measures: Measures, model_uid: str) -> None:
        self.duration = measures.duration.labels(model_uid)
        self.route = measures.route.labels(model_uid)
        self.first_token = measures.first_token.labels(model_uid)
        self.token = measures.token.labels(model_uid)
        self.prompt = measures.prompt.labels(model_uid)
        self.completion = measures.completion.labels(model_uid, "false")
        self.completion_estimated = measures.completion.labels(model_uid, "true")


class Measures:
    """The data path's instruments. Labels are statuses and models of the routing table, never what a client made up."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = metrics.counter("nebula_request_total", "Inference requests answered.", ("status_code",))
        self.in_flight = metrics.gauge("nebula_request_concurrent", "Inference requests being relayed.").labels()
        self.duration = metrics.histogram(
            "nebula_request_duration_seconds", "Time from a request's last byte to its answer's.", SECONDS, ("model_uid",)
        )
        self.route = metrics.histogram(
            "nebula_route_latency_seconds", "Time from a request's being routed to a replica to its answer's end.", SECONDS, ("model_uid",)
        )
        self.first_token = metrics.histogram(
            "nebula_time_to_first_token_seconds",
            "Time from a request's last byte to its answer's first event, or first body byte.",
            SECONDS,
            ("model_uid",),
        )
        self.token = metrics.histogram(
            "nebula_time_per_output_token_seconds", "Time per token after the first, of streamed answers.", TOKEN_SECONDS, ("model_uid",)
        )
        self.prompt = metrics.counter("nebula_prompt_tokens_total", "Prompt tokens, as engines report them.", ("model_uid",))
        self.completion = metrics.counter(
            "nebula_completion_tokens_total", "Completion tokens; estimated where no usage was sent.", ("model_uid", "estimated")
        )
        self._statuses: dict[int, Value] = {}
        self._models: dict[str, _Series] = {}

    def count(self, status: int) -> None:
        """Count one answered request."""
        series = self._statuses.get(status)
        if series is None:
            series = self._statuses[status] = self.requests.labels(str(status))
        series.value += 1

    def record(
        self,
        model_uid: str,
        status: int,
        duration_s: float,
        route_s: float | None,
        first_token_s: float | None,
        tokens: Tokens,
        streamed: bool,
    ) -> None:
        """A request that named a known model has ended.

        `route_s`: from being routed to a replica to the end of its answer; `None` if it did not answer, or not to the end.
        `first_token_s`: to the first event of a stream, or to the first body byte; `None` if none came. `streamed`: it came as events.
        Plain arguments, for to make an object of them takes 0.5 us.
        """
        self.count(status)
        series = self._models.get(model_uid)
        if series is None:
            series = self._models[model_uid] = _Series(self, model_uid)
        series.duration.observe(duration_s)
        if route_s is not None:
            series.route.observe(route_s)
        if first_token_s is not None:
            series.first_token.observe(first_token_s)
        prompt, completion, estimated = tokens
        if prompt is not None:
            series.prompt.value += prompt
        if completion is None:
            return
        (series.completion_estimated if estimated else series.completion).value += completion
        if streamed and first_token_s is not None and (each := token_s(duration_s, first_token_s, completion)) is not None:
            series.token.observe(each)
