"""The settings table `[scraper_prometheus]`: which metric of an engine is which signal."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nebula_core import PluginSettings

MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
Aggregate = Literal["sum", "mean", "max"]


class _Mapping(PluginSettings):
    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, table: Any) -> Any:
        unknown = set(table) - set(cls.model_fields) if isinstance(table, dict) else set()
        if unknown:
            raise ValueError(f'no key "{min(unknown)}" (its keys: {", ".join(cls.model_fields)})')
        return table


class Metric(_Mapping):
    """A number on the page."""

    metric: MetricName
    """Its name as it stands on the page, `_total` included."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Only samples with these label values count; an empty value stands for a label that is not there."""
    aggregate: Aggregate | None = None
    """How several samples become one; `None` takes what suits the signal."""
    scale: float = Field(1.0, gt=0, le=1e15)
    """What the number is multiplied by, to give the signal's unit."""


class Share(_Mapping):
    """A share of something (0–1): a metric that tells it, or two of which one is a part of the other."""

    metric: MetricName | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    aggregate: Aggregate | None = None
    scale: float = Field(1.0, gt=0, le=1e15)
    numerator: Metric | None = None
    denominator: Metric | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Share:
        parts = (self.numerator, self.denominator)
        if (self.metric is None) == (parts == (None, None)) or (self.metric is None and None in parts):
            raise ValueError("either `metric`, or `numerator` and `denominator`")
        if self.metric is None and self.model_fields_set & {"labels", "aggregate", "scale"}:
            raise ValueError("with `numerator` and `denominator`, each has its own `labels`, `aggregate` and `scale`")
        return self

    @property
    def gauge(self) -> Metric | None:
        """The metric that tells the share, if one does."""
        if self.metric is None:
            return None
        return Metric(metric=self.metric, labels=self.labels, aggregate=self.aggregate, scale=self.scale)


class ScraperSettings(PluginSettings):
    """`[scraper_prometheus]`."""

    path: str = Field("/metrics", pattern="^/")
    """Where the engine serves its page."""
    window_s: float = Field(60.0, gt=0)
    """A hit rate from two counters is that of the last so many seconds."""
    pending: Metric | None = None
    running: Metric | None = None
    kv_cache_usage: Share | None = None
    kv_cache_used_bytes: Metric | None = None
    kv_capacity_tokens: Metric | None = None
    kv_block_tokens: Metric | None = None
    prefix_cache_hit_rate: Share | None = None
    prompt_tokens_total: Metric | None = None
    cached_tokens_total: Metric | None = None
    generated_tokens_total: Metric | None = None

    @property
    def metrics(self) -> frozenset[str]:
        """The names of all metrics that are mapped."""
        told = [value for value in dict(self).values() if isinstance(value, Metric)]
        for share in (self.kv_cache_usage, self.prefix_cache_hit_rate):
            told += [part for part in (share.gauge, share.numerator, share.denominator) if part] if share else []
        return frozenset(metric.metric for metric in told)
