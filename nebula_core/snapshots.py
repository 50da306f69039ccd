"""What the instruments of `metrics.py` have counted, as plain data: processes send it to each other, and `merge` adds it up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram"]


class Sample(msgspec.Struct, frozen=True):
    """One series. `buckets` counts observations per bucket (not cumulated), the last one being +Inf; empty unless a histogram."""

    labels: tuple[str, ...]
    value: float
    """A counter's or gauge's value; a histogram's sum."""
    buckets: tuple[int, ...] = ()


class Family(msgspec.Struct, frozen=True):
    """All series of one metric. `bounds` are a histogram's upper bucket bounds without +Inf."""

    name: str
    kind: Kind
    help: str
    label_names: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    samples: tuple[Sample, ...] = ()


Snapshot = tuple[Family, ...]


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of several processes' snapshots; series appear once each."""
    families: dict[str, Family] = {}
    series: dict[str, dict[tuple[str, ...], Sample]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            families.setdefault(family.name, family)
            known = series.setdefault(family.name, {})
            for sample in family.samples:
                known[sample.labels] = _add(known[sample.labels], sample) if sample.labels in known else sample
    return tuple(Family(f.name, f.kind, f.help, f.label_names, f.bounds, tuple(series[f.name].values())) for f in families.values())


def _add(a: Sample, b: Sample) -> Sample:
    buckets = tuple(x + y for x, y in zip(a.buckets, b.buckets, strict=True))
    return Sample(a.labels, a.value + b.value, buckets)
