"""The results in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from nebula_simulate.results import Row
from nebula_simulate.runs import Setup

LEAST = ("ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "e2e_p50_s", "e2e_p90_s", "e2e_p99_s")
MOST = ("slo_met", "goodput_rps")


def table(rows: Sequence[Row], setup: Setup) -> Table:
    """One line per strategy and load; the best times of a load are bold."""
    made = Table(title=_title(setup), caption=_caption(rows, setup), caption_justify="left", title_style="bold", header_style="")
    made.add_column("load", justify="right")
    made.add_column("strategy")
    for head in ("hit rate", "imbal.", "TTFT p50", "p90", "p99", "E2E p50", "p90", "p99", f"≤ {setup.slo_ttft_s:g} s", "good req/s"):
        made.add_column(head, justify="right")
    for place, row in enumerate(rows):
        if place and rows[place - 1].load != row.load:
            made.add_section()
        made.add_row(f"{row.load:g}", Text(row.strategy), *_cells(row, [other for other in rows if other.load == row.load]))
    return made


def _cells(row: Row, rivals: Sequence[Row]) -> list[Text]:
    figures = row.medians
    cells = [Text(f"{figures['token_hit_rate']:.1%}"), Text(f"{figures['imbalance']:.2f}")]
    for key in LEAST:
        best = figures[key] <= min(rival.medians[key] for rival in rivals)
        cells.append(Text(seconds(figures[key]), style="bold" if best and len(rivals) > 1 else ""))
    return [*cells, Text(f"{figures['slo_met']:.1%}"), Text(f"{figures['goodput_rps']:.2f}")]


def seconds(value: float) -> str:
    """With as many digits as tell something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _title(setup: Setup) -> str:
    return f"{setup.trace.name}: {described(setup)}"


def described(setup: Setup) -> str:
    """The fleet, in words."""
    gateways = f", {setup.gateways} gateways" if setup.gateways > 1 else ""
    return f"{setup.fleet.replicas} replicas with {setup.fleet.capacity_tokens:,} tokens of KV cache, model {setup.fleet.model}{gateways}"


def _caption(rows: Sequence[Row], setup: Setup) -> str:
    figures = [row.medians for row in rows]
    parts = [f"{min(one['requests'] for one in figures):,.0f} requests or more"]
    parts += [f"medians of {len(rows[0].seeds)} seeds"] if len(rows[0].seeds) > 1 else []
    parts += ["no shared prefixes"] if setup.distinct else []
    if refused := max(one["refused"] for one in figures):
        parts.append(f"{refused:,.0f} left out that no replica could hold")
    parts += [
        f"{row.strategy} left {row.medians['fallbacks']:,.0f} to the fallback at load {row.load:g}"
        for row in rows
        if row.medians["fallbacks"]
    ]
    return "times in seconds; " + "; ".join(parts)
