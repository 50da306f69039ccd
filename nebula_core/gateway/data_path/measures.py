"""What is counted of every request, with each model's instruments bound once."""

from __future__ import annotations

from typing import Final

import msgspec

from nebula_core.metrics import Metrics, Value

SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
CLIENT_GONE = 499
"""Stands for a status where the client left before it was sent one."""


class Outcome(msgspec.Struct):
    """What became of one request that named a known model."""

    model_uid: str
    status: int
    duration_s: float
    first_token_s: float | None
    """Time to the first event of a stream, or to the first body byte; `None` if none came."""
    prompt_tokens: int | None
    completion_tokens: int | None
    estimated: bool
    """`completion_tokens` is a count of events, for want of a `usage`."""


class _Series:
    """One model's instruments."""

    __slots__ = ("completion", "completion_estimated", "duration", "first_token", "prompt")

    def __init__(self, measures: Measures, model_uid: str) -> None:
        self.duration = measures.duration.labels(model_uid)
        self.first_token = measures.first_token.labels(model_uid)
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
        self.first_token = metrics.histogram(
            "nebula_time_to_first_token_seconds", "Time from a request's last byte to its answer's first.", SECONDS, ("model_uid",)
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
        series.inc()

    def record(self, outcome: Outcome) -> None:
        """A request that named a known model has ended."""
        self.count(outcome.status)
        series = self._models.get(outcome.model_uid)
        if series is None:
            series = self._models[outcome.model_uid] = _Series(self, outcome.model_uid)
        series.duration.observe(outcome.duration_s)
        if outcome.first_token_s is not None:
            series.first_token.observe(outcome.first_token_s)
        if outcome.prompt_tokens is not None:
            series.prompt.inc(outcome.prompt_tokens)
        if outcome.completion_tokens is not None:
            (series.completion_estimated if outcome.estimated else series.completion).inc(outcome.completion_tokens)
