"""The results in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor

from rich.table import Table
from rich.text import Text

from nebula_simulate.fitted import Column, fitted
from nebula_simulate.results import Row
from nebula_simulate.runs import Figures, Setup


def table(rows: Sequence[Row], setup: Setup, width: int) -> Table:
    """One line per strategy and load; the best times of a load are bold. In fewer columns than `width` needs, some are left out."""
    best = _best(rows)
    columns = [
        Column("", "load", [Text(f"{row.load:g}") for row in rows]),
        Column("", "strategy", [Text(row.strategy) for row in rows], justify="left"),
        *([Column("", "served", [served(row.medians) for row in rows])] if any(row.medians["served"] < 1 for row in rows) else ()),
        Column("hit", "rate", _plain(rows, lambda one: f"{one['token_hit_rate']:.1%}")),
        Column("", "imbal.", _plain(rows, lambda one: f"{one['imbalance']:.2f}"), spare=4),
        Column("TTFT", "p50", best("ttft_p50_s")),
        Column("TTFT", "p90", best("ttft_p90_s")),
        Column("TTFT", "p99", best("ttft_p99_s")),
        Column("E2E", "p50", best("e2e_p50_s"), spare=3),
        Column("E2E", "p90", best("e2e_p90_s"), spare=2),
        Column("E2E", "p99", best("e2e_p99_s")),
        Column("", f"≤ {setup.slo_ttft_s:g} s", _plain(rows, lambda one: f"{one['slo_met']:.1%}")),
        Column("good", "req/s", _plain(rows, lambda one: f"{one['goodput_rps']:.2f}"), spare=1),
    ]
    sections = {place for place, row in enumerate(rows) if place and rows[place - 1].load != row.load}
    return fitted(columns, width, f"{setup.trace.name}: {described(setup)}", _caption(rows, setup), sections)


def _plain(rows: Sequence[Row], shown: Callable[[Figures], str]) -> list[Text]:
    return [Text(shown(row.medians) if row.medians["requests"] else "–") for row in rows]


def _best(rows: Sequence[Row]) -> Callable[[str], list[Text]]:
    """What makes the cells of a time, the shortest of each load in bold."""

    def cells(key: str) -> list[Text]:
        made = _plain(rows, lambda one: seconds(one[key]))
        for row, cell in zip(rows, made, strict=True):
            rivals = [other.medians[key] for other in rows if other.load == row.load]
            if len(rivals) > 1 and row.medians[key] <= min(rivals):
                cell.stylize("bold")
        return made

    return cells


def served(figures: Figures) -> Text:
    """The share of the requests that were answered, in red unless it is all of them: never rounded up to that."""
    share = figures["served"]
    return Text(f"{floor(share * 1000) / 10:.1f}%", style="bold red" if share < 1 else "")


def seconds(value: float) -> str:
    """With as many digits as tell something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def described(setup: Setup) -> str:
    """The fleet, in words."""
    gateways = f", {setup.gateways} gateways" if setup.gateways > 1 else ""
    return f"{setup.fleet.replicas} replicas with {setup.fleet.capacity_tokens:,} tokens of KV cache, model {setup.fleet.model}{gateways}"


def _caption(rows: Sequence[Row], setup: Setup) -> list[str]:
    figures = [row.medians for row in rows]
    fewest, most = (each(one["requests"] for one in figures) for each in (min, max))
    parts = ["times in seconds", f"{fewest:,.0f} requests" + (" or more" if most > fewest else "")]
    parts += [f"medians of {len(rows[0].seeds)} seeds"] if len(rows[0].seeds) > 1 else []
    parts += ["no shared prefixes"] if setup.distinct else []
    if refused := max(one["refused"] for one in figures):
        parts.append(f"{refused:,.0f} left out that no replica could hold: they count in “served” alone")
    parts += [
        f"{row.strategy} left {row.medians['fallbacks']:,.0f} to the fallback at load {row.load:g}"
        for row in rows
        if row.medians["fallbacks"]
    ]
    return parts
