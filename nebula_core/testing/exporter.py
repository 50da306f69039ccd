"""What every exporter must do, whatever format it writes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula_core.interfaces import Exporter
from nebula_core.metrics import Metrics
from nebula_core.snapshots import Snapshot

Labels = frozenset[tuple[str, str]]
Series = Mapping[tuple[str, Labels], float]
"""(name, labels) → value."""

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def make_snapshot(label: str = "m", value: float = 2.0) -> Snapshot:
    """One metric of each kind: `lab_requests_total`, `lab_running` and `lab_duration_seconds`, by `model_uid`."""
    metrics = Metrics()
    metrics.counter("lab_requests_total", "Requests.", ["model_uid"]).labels(label).inc(value)
    metrics.gauge("lab_running", "Running.", ["model_uid"]).labels(label).set(value)
    metrics.histogram("lab_duration_seconds", "Durations.", (0.1, 1.0), ["model_uid"]).labels(label).observe(value)
    return metrics.snapshot()


class ExporterContract(ABC):
    """Inherit it in a test class, make the exporter under test and read its page back."""

    @abstractmethod
    def make_exporter(self) -> Exporter:
        """A fresh exporter with its default settings."""

    @abstractmethod
    def read(self, content_type: str, body: bytes) -> Series:
        """The series of a page, as its readers see them."""

    def test_its_path_can_be_served(self) -> None:
        """It is absolute and needs no quoting."""
        path = self.make_exporter().path
        assert path.startswith("/")
        assert path.isascii()
        assert not set(path) & set(" ?#%{}")

    def test_a_page_without_metrics_is_a_page(self) -> None:
        """A role may have nothing to tell yet."""
        assert self.read(*self.make_exporter().page((), "")) == {}

    @given(label=_TEXT, value=st.floats(0, 1e12))
    @settings(max_examples=100, deadline=None)
    def test_what_was_counted_is_what_is_read(self, label: str, value: float) -> None:
        """Whatever stands in a label."""
        series = self.read(*self.make_exporter().page(make_snapshot(label, value), ""))
        labels = frozenset({("model_uid", label)})
        for name in ("lab_requests_total", "lab_running"):
            assert math.isclose(series[name, labels], value)

    @pytest.mark.parametrize("accept", ["*/*", "text/html", "application/openmetrics-text;version=x", ";;,=", "é" * 1000])
    def test_whatever_a_reader_accepts_it_gets_a_page(self, accept: str) -> None:
        """The header is the client's own text."""
        assert self.read(*self.make_exporter().page(make_snapshot(), accept))

    def test_the_same_numbers_make_the_same_page(self) -> None:
        """It keeps nothing from one page to the next."""
        exporter = self.make_exporter()
        assert exporter.page(make_snapshot(), "") == exporter.page(make_snapshot(), "")
