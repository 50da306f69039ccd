"""One series per thing that is counted, out of SGLang's series per rank and priority."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from nebula_core import MetricSample, MetricsPage

SHARED = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})
"""Ranks that compute the same requests together. Those of `dp_rank` each have their own."""


def without_repeats(page: MetricsPage) -> MetricsPage:
    """The page with what ranks tell in common told once, and without the parts of a queue that it gives the whole of."""
    return MetricsPage({name: _merged(_wholes(samples)) for name, samples in page.families.items()})


def _wholes(samples: list[MetricSample]) -> list[MetricSample]:
    """With priorities on, a queue's length comes once for all (`priority=""`) and once for each."""
    return [sample for sample in samples if not sample.labels.get("priority")] or samples


def _merged(samples: Iterable[MetricSample]) -> list[MetricSample]:
    values = defaultdict(list)
    for sample in samples:
        key = frozenset(label for label in sample.labels.items() if label[0] not in SHARED)
        values[key].append(sample.value)
    return [MetricSample(dict(key), _largest(told)) for key, told in values.items()]


def _largest(values: list[float]) -> float:
    """Ranks are a step apart at times: the highest is the latest in a rising queue, and on the safe side in a falling one."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)
