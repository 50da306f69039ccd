"""The results as one page that needs nothing from anywhere: charts over the load, and all figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from nebula_simulate.bars import bars
from nebula_simulate.chart import chart
from nebula_simulate.results import Row
from nebula_simulate.runs import Setup
from nebula_simulate.table import described, seconds

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#64748b", "#65a30d", "#be185d", "#4f46e5", "#ca8a04")
STYLE = """
:root { --paper: #fff; --text: #1f2328; --faint: #6b7280; --grid: #e5e7eb; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181d; --text: #e6e6e6; --faint: #9aa1ac; --grid: #30343c; } }
body { margin: 2rem auto; padding: 0 1rem; max-width: 1000px; }
body { background: var(--paper); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1rem; margin: 0 0 .3rem; } p { color: var(--faint); margin: .3rem 0 1rem; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: .6rem 0; position: sticky; top: 0; background: var(--paper); }
.legend span::before { content: ""; display: inline-block; width: 1.4em; height: 3px; margin-right: .5em; }
.legend span::before { vertical-align: middle; background: var(--ink); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 1.6rem; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--faint); } .grid { stroke: var(--grid); }
polyline { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; } circle { fill: var(--ink); }
.table { overflow-x: auto; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; font-size: 13px; }
td, th { padding: .2rem .6rem; text-align: right; white-space: nowrap; } th { color: var(--faint); font-weight: 500; }
td:nth-child(2), th:nth-child(2) { text-align: left; } tr.first td { border-top: 1px solid var(--grid); }
"""


def _per_cent(value: float) -> str:
    return f"{value * 100:.3g} %"


def _tick(value: float) -> str:
    return f"{value:.3g}"


Figure = tuple[str, str, Callable[[float], str]]
CHARTS: Sequence[Figure] = (
    ("ttft_p50_s", "Time to first token, median, s", _tick),
    ("ttft_p90_s", "Time to first token, 90th percentile, s", _tick),
    ("ttft_p99_s", "Time to first token, 99th percentile, s", _tick),
    ("e2e_p90_s", "Time to the whole answer, 90th percentile, s", _tick),
    ("slo_met", "First tokens in time", _per_cent),
    ("token_hit_rate", "Prompt tokens found in a cache", _per_cent),
)
COLUMNS: Sequence[Figure] = (
    ("token_hit_rate", "hit rate", _per_cent),
    ("imbalance", "imbalance", lambda value: f"{value:.2f}"),
    *((f"ttft_p{q}_s", f"TTFT p{q}", seconds) for q in (50, 90, 99)),
    *((f"e2e_p{q}_s", f"E2E p{q}", seconds) for q in (50, 90, 99)),
    ("served", "served", _per_cent),
    ("slo_met", "in time", _per_cent),
    ("goodput_rps", "good req/s", lambda value: f"{value:.2f}"),
    ("requests", "requests", lambda value: f"{value:,.0f}"),
)


def page(rows: Sequence[Row], setup: Setup, command: str) -> str:
    """The whole HTML. `command` is what the user typed, to be run again."""
    names = list(dict.fromkeys(row.strategy for row in rows))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    title = f"{setup.trace.name} on {setup.fleet.replicas} replicas"
    legend = "".join(f'<span style="--ink:{colours[name]}">{escape(name)}</span>' for name in names)
    charts = "".join(_chart(figure, rows, names, colours) for figure in CHARTS)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(_summary(rows, setup))}<br><code>nebula {escape(command)}</code></p>"
        f'<div class="legend">{legend}</div><div class="charts">{charts}</div>'
        f'<div class="table">{_table(rows)}</div></body></html>\n'
    )


def _summary(rows: Sequence[Row], setup: Setup) -> str:
    seeds = f"; medians of {len(rows[0].seeds)} seeds" if len(rows[0].seeds) > 1 else ""
    shared = "; no shared prefixes" if setup.distinct else ""
    return f"{described(setup)}{shared}{seeds}. In time: a first token within {setup.slo_ttft_s:g} s."


def _chart(figure: Figure, rows: Sequence[Row], names: Sequence[str], colours: dict[str, str]) -> str:
    key, title, shown = figure
    if len({row.load for row in rows}) == 1:
        drawn = bars({row.strategy: row.medians[key] for row in rows}, colours, shown)
    else:
        series = {name: [(row.load, row.medians[key]) for row in rows if row.strategy == name] for name in names}
        drawn = chart(series, colours, shown, from_zero=shown is _per_cent)
    return f"<section><h2>{title}</h2>{drawn}</section>"


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{text}</th>" for text in ("load", "strategy", *(title for _, title, _ in COLUMNS)))
    body, before = [], None
    for row in rows:
        cells = (f"{row.load:g}", escape(row.strategy), *(shown(row.medians[key]) for key, _, shown in COLUMNS))
        mark = "" if row.load == before else ' class="first"'
        body.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        before = row.load
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
