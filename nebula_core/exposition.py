"""Reads engines' metrics pages: Prometheus' text format, and OpenMetrics where it differs, for a few metrics out of many.

A page of 60 KB has some 500 lines of which a scraper wants twenty, every three seconds and for every engine of a node. So a page is
searched for the wanted names with one compiled pattern, and only the lines found are looked at; the rest, histograms above all, costs
a scan for line feeds. Names in quotes (`{"my.metric"}`) are not supported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from nebula_core.errors import ScrapeError

MAX_SAMPLES = 10_000
"""Samples of wanted metrics on one page; no engine has nearly as many, and reading this many takes some 30 ms."""

_BLANKS = rb"[ \t]*+"
_LABEL_NAME = rb"[a-zA-Z_][a-zA-Z0-9_]*+"
_LABEL_VALUE = rb"(?:[^\"\\]|\\.)*+"
_LABEL = _BLANKS + _LABEL_NAME + _BLANKS + b"=" + _BLANKS + b'"' + _LABEL_VALUE + b'"' + _BLANKS
_NUMBER = rb"[-+.0-9a-zA-Z]++"
_AFTER_NAME = re.compile(
    rb"(?:" + _BLANKS + rb"\{((?:" + _LABEL + rb"(?:,|(?=\})))*+)" + _BLANKS + rb"\}|[ \t])"  # labels, or a blank
    + _BLANKS + rb"(" + _NUMBER + rb")"  # value
    + rb"(?:[ \t]++[-+.0-9eE]++)?"  # time
    + rb"(?:[ \t]++#.*+)?[ \t\r]*+",  # exemplar
    re.DOTALL,
)  # fmt: skip
_LABELS = re.compile(rb"(" + _LABEL_NAME + rb")" + _BLANKS + b"=" + _BLANKS + b'"(' + _LABEL_VALUE + b')"', re.DOTALL)
_NAME = re.compile(_BLANKS + rb"[a-zA-Z_:][a-zA-Z0-9_:]*+")
_ESCAPE = re.compile(r'\\([\\n"])')


class MetricSample(NamedTuple):
    """One line of a page."""

    labels: Mapping[str, str]
    value: float
    """As it stands there: it may be negative, infinite or NaN."""


@dataclass(frozen=True)
class MetricsPage:
    """The wanted samples of a page, by the metric's name.

    What is asked of it is `None` where the page does not say it, and where it says what cannot be: one value that is negative,
    infinite or NaN makes the whole unknown, since the others alone would tell too little.
    """

    families: Mapping[str, list[MetricSample]]

    def samples(self, name: str, labels: Mapping[str, str] | None = None) -> list[MetricSample]:
        """Its samples that have these label values; a label that a sample lacks is an empty one."""
        found = self.families.get(name, [])
        return [sample for sample in found if _has(sample, labels)] if labels else list(found)

    def sum(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """All of its samples together."""
        values = self._values(name, labels)
        return _finite(sum(values)) if values else None

    def mean(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """The mean of its samples."""
        values = self._values(name, labels)
        return _finite(sum(values) / len(values)) if values else None

    def max(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """The largest of its samples."""
        values = self._values(name, labels)
        return max(values) if values else None

    def _values(self, name: str, labels: Mapping[str, str] | None) -> list[float]:
        values = [sample.value for sample in self.samples(name, labels)]
        return values if all(0 <= value < math.inf for value in values) else []


class MetricsReader:
    """Reads pages for the metrics of these names, which belong to `engine`; make one and keep it."""

    def __init__(self, names: Iterable[str], engine: str) -> None:
        self._engine = engine
        wanted = b"|".join(re.escape(name.encode()) for name in sorted(set(names)))
        self._lines = re.compile(rb"\n[ \t]*+(" + wanted + rb")(?![a-zA-Z0-9_:])([^\n]*+)")

    def read(self, page: bytes, path: str) -> MetricsPage:
        """The samples of the wanted metrics. `path` is where the page came from, for messages.

        Raises `ScrapeError` if there are none, if one of them cannot be read, or if the page ends in the middle of a line. A last
        line that is whole but for its line feed is accepted: that an answer came to its end is for HTTP to say.
        """
        families: dict[str, list[MetricSample]] = {}
        for name, rest in self._found(page, path):
            sample = _sample(rest)
            if sample is None:
                raise ScrapeError(f"{path} has the line {(name + rest)[:120]!r}, which is not a name, labels and a value")
            families.setdefault(name.decode(), []).append(sample)
        if not families:
            raise ScrapeError(f"{path} is not a metrics page of {self._engine}: it has none of the metrics (it begins {page[:40]!r})")
        _check_end(page, path)
        return MetricsPage(families)

    def _found(self, page: bytes, path: str) -> Iterator[tuple[bytes, bytes]]:
        lines = self._lines.finditer(b"\n" + page)
        for line in islice(lines, MAX_SAMPLES):
            yield line[1], line[2]
        if next(lines, None):
            raise ScrapeError(f"{path} has more than {MAX_SAMPLES} samples of the metrics that are read")


def as_ratio(value: float | None) -> float | None:
    """A share of something: more than all of it counts as all."""
    return None if value is None else min(1.0, value)


def as_count(value: float | None) -> int | None:
    """A number of things, rounded down; none of anything, or more than can be counted exactly, is no answer."""
    return int(value) if value is not None and 1 <= value <= 2**53 else None


def _has(sample: MetricSample, labels: Mapping[str, str]) -> bool:
    return all(sample.labels.get(name, "") == value for name, value in labels.items())


def _finite(value: float) -> float | None:
    return value if value < math.inf else None


def _sample(rest: bytes) -> MetricSample | None:
    """What follows a metric's name."""
    found = _AFTER_NAME.fullmatch(rest)
    if found is None:
        return None
    try:
        value = float(found[2])
    except ValueError:
        return None
    return MetricSample(_labels(found[1]) if found[1] else {}, value)


def _labels(text: bytes) -> dict[str, str]:
    return {name.decode(): _unescaped(value.decode(errors="replace")) for name, value in _LABELS.findall(text)}


def _unescaped(value: str) -> str:
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], value) if "\\" in value else value


def _check_end(page: bytes, path: str) -> None:
    last = page[page.rfind(b"\n") + 1 :]
    if not last.strip() or last.lstrip().startswith(b"#"):
        return
    name = _NAME.match(last)
    if name is None or _sample(last[name.end() :]) is None:
        raise ScrapeError(f"{path} ends in the middle of a line: {last[:120]!r}")
