"""The results in a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from nebula_simulate.scaling.compare import BASELINES, Comparison, Row
from nebula_simulate.table import seconds


def table(rows: Sequence[Row], comparison: Comparison) -> Table:
    """One line each, in the order in which they were asked for."""
    made = Table(title=described(comparison), caption=_caption(rows), caption_justify="left", title_style="bold", header_style="")
    made.add_column("scaled by")
    for head in (f"≤ {comparison.slo_s:g} s", "GPU-hours", "most", "failed", "held", "queued", "TTFT p99", "longest", "changes"):
        made.add_column(head, justify="right")
    if comparison.workload.steps_at:
        made.add_column("in time again after")
    for row in rows:
        made.add_row(Text(row.name, style="dim" if row.name in BASELINES else ""), *_cells(row))
    return made


def _cells(row: Row) -> list[str]:
    one = row.figures
    counts = [f"{one[key]:,.0f}" for key in ("most_replicas", "failed", "most_waiting", "most_pending")]
    times = [seconds(one["ttft_p99_s"]), seconds(one["longest_wait_s"]), f"{one['changes']:,.0f}"]
    again = [" ".join(f"{each:.0f}" for each in row.regained_s)] if row.regained_s else []
    return [f"{one['attainment']:.2%}", f"{one['gpu_hours']:.2f}", *counts, *times, *again]


def described(comparison: Comparison) -> str:
    """The workload and the fleet, in words."""
    workload, bounds, scene = comparison.workload, comparison.bounds, comparison.scene
    return (
        f"{workload.name}: {len(workload.requests):,} requests in {workload.length_s / 3600:.3g} h, "
        f"{bounds.least} to {bounds.most} replicas, {scene.start} at the start, {scene.boot_s:g} s to start one"
    )


def _caption(rows: Sequence[Row]) -> str:
    parts = ["times in seconds; held: most requests in the waiting room; queued: most requests in engines' queues"]
    if refused := max(row.figures["refused"] for row in rows):
        parts.append(f"{refused:,.0f} left out that no replica could hold")
    return "; ".join(parts)


def document(rows: Sequence[Row], comparison: Comparison) -> list[dict[str, Any]]:
    """Figures by name, the course of each run, and what all of it follows from."""
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
