"""The results in a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from nebula_simulate.fitted import Column, fitted
from nebula_simulate.scaling.compare import BASELINES, Comparison, Row
from nebula_simulate.scaling.figures import Figures
from nebula_simulate.table import seconds, served


def table(rows: Sequence[Row], comparison: Comparison, width: int) -> Table:
    """One line each, in the order in which they were asked for. In fewer columns than `width` needs, some are left out."""

    def cells(shown: Callable[[Figures], str]) -> list[Text]:
        return [Text(shown(row.figures)) for row in rows]

    names = [Text(row.name, style="dim" if row.name in BASELINES else "") for row in rows]
    again = [Text(" ".join(f"{each:.0f}" for each in row.regained_s)) for row in rows]
    columns = [
        Column("", "scaled by", names, justify="left"),
        *([Column("", "served", [served(row.figures) for row in rows])] if any(row.figures["served"] < 1 for row in rows) else ()),
        Column("", f"≤ {comparison.slo_s:g} s", cells(lambda one: f"{one['attainment']:.2%}")),
        Column("GPU-", "hours", cells(lambda one: f"{one['gpu_hours']:.2f}")),
        Column("", "most", cells(lambda one: f"{one['most_replicas']:,.0f}")),
        Column("", "failed", cells(lambda one: f"{one['failed']:,.0f}")),
        Column("", "held", cells(lambda one: f"{one['most_waiting']:,.0f}"), spare=1),
        Column("", "queued", cells(lambda one: f"{one['most_pending']:,.0f}"), spare=2),
        Column("TTFT", "p99", cells(lambda one: seconds(one["ttft_p99_s"]))),
        Column("", "longest", cells(lambda one: seconds(one["longest_wait_s"])), spare=3),
        Column("", "changes", cells(lambda one: f"{one['changes']:,.0f}"), spare=4),
        *([Column("in time", "again after", again, justify="left", wraps=True)] if comparison.workload.steps_at else ()),
    ]
    return fitted(columns, width, described(comparison), _caption(rows))


def described(comparison: Comparison) -> str:
    """The workload and the fleet, in words."""
    workload, bounds, scene = comparison.workload, comparison.bounds, comparison.scene
    return (
        f"{workload.name}: {len(workload.requests):,} requests in {lasting(workload.length_s)}, "
        f"{bounds.least} to {bounds.most} replicas, {scene.start} at the start, {scene.boot_s:g} s to start one"
    )


def lasting(seconds: float) -> str:
    """A time in the unit in which one would say it."""
    if seconds >= 7200:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _caption(rows: Sequence[Row]) -> list[str]:
    parts = ["times in seconds", "held: most requests in the waiting room", "queued: most requests in engines' queues"]
    if refused := max(row.figures["refused"] for row in rows):
        parts.append(f"{refused:,.0f} left out that no replica could hold: they count in “served” alone")
    return parts


def document(rows: Sequence[Row], comparison: Comparison) -> list[dict[str, Any]]:
    """Figures by name, the course of each run, and what all of it follows from."""
    spec = comparison.scene.engine
    parameters = {
        "workload": comparison.workload.name,
        "length_s": comparison.workload.length_s,
        "min_replicas": comparison.bounds.least,
        "max_replicas": comparison.bounds.most,
        "start": comparison.scene.start,
        "boot_s": comparison.scene.boot_s,
        "slo_ttft_s": comparison.slo_s,
        "gpus_per_replica": comparison.gpus,
        "waiting_room": comparison.scene.room.places,
        "kv_tokens": spec.kv_tokens,
        "engine": {"max_batched_tokens": spec.max_batched_tokens, "max_sequences": spec.max_sequences, **asdict(spec.cost)},
    }
    keys = ("at_s", "wanted", "ready", "arrivals_per_s", "in_flight")
    return [
        {
            "autoscale": row.name,
            **row.figures,
            "regained_s": row.regained_s,
            "course": {key: [look[place] for look in row.looks] for place, key in enumerate(keys)},
            "parameters": parameters,
        }
        for row in rows
    ]
