"""The results as one page that needs nothing from anywhere: load and replicas over time, and all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from nebula_simulate.chart import BOTTOM, LEFT, RIGHT, TOP, Axis
from nebula_simulate.page import COLOURS, STYLE
from nebula_simulate.scaling.compare import Comparison, Row
from nebula_simulate.scaling.table import described

WIDTH, HEIGHT = 960, 250
MOST_POINTS = 1000
Course = Sequence[tuple[float, float]]


def page(rows: Sequence[Row], comparison: Comparison, command: str) -> str:
    """The whole HTML. `command` is what the user typed, to be run again."""
    colours = {row.name: COLOURS[place % len(COLOURS)] for place, row in enumerate(rows)}
    legend = "".join(f'<span style="--ink:{colours[row.name]}">{escape(row.name)}</span>' for row in rows)
    load = {"load": [(at, rate) for at, _, _, rate, _ in rows[0].looks]}
    wanted = {row.name: [(at, float(number)) for at, number, _, _, _ in row.looks] for row in rows}
    title = f"{comparison.workload.name}, scaled"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(described(comparison))}. In time: a first token within {comparison.slo_s:g} s."
        f"<br><code>nebula {escape(command)}</code></p>"
        f"<h2>Requests per second</h2>{_chart(load, {'load': 'var(--faint)'}, stairs=False)}"
        f'<div class="legend">{legend}</div><h2>Replicas wanted</h2>{_chart(wanted, colours, stairs=True)}'
        f'<div class="table">{_table(rows)}</div></body></html>\n'
    )


def _chart(courses: Mapping[str, Course], colours: Mapping[str, str], *, stairs: bool) -> str:
    across = Axis(0.0, max(at for course in courses.values() for at, _ in course) / 3600 or 1.0, log=False)
    up = Axis(0.0, 1.08 * max(value for course in courses.values() for _, value in course) or 1.0, log=False)
    lines = "".join(
        f'<g style="--ink:{colours[name]}"><polyline points="{_points(course, across, up, stairs)}">'
        f"<title>{escape(name)}</title></polyline></g>"
        for name, course in courses.items()
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{_grid(across, up)}{lines}</svg>'


def _points(course: Course, across: Axis, up: Axis, stairs: bool) -> str:
    """Stairs keep each corner; a smooth course is thinned to what can be seen."""
    kept, before = [], 0.0
    every = 1 if stairs else max(1, len(course) // MOST_POINTS)
    for place, (at, value) in enumerate(course):
        if stairs and place and value != before:
            kept.append((at, before))
        if (not stairs and place % every == 0) or value != before or place in (0, len(course) - 1):
            kept.append((at, value))
        before = value
    return " ".join(f"{_x(across, at / 3600):.1f},{_y(up, value):.1f}" for at, value in kept)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _grid(across: Axis, up: Axis) -> str:
    parts = []
    for value in up.ticks():
        y = _y(up, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in across.ticks():
        parts.append(f'<text x="{_x(across, value):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">hours</text>')
    return "".join(parts)


def _table(rows: Sequence[Row]) -> str:
    keys = [key for key in rows[0].figures if key != "refused"]
    head = "".join(f"<th>{text}</th>" for text in ("", "scaled by", *(key.replace("_", " ") for key in keys)))
    body = "".join(
        f"<tr><td></td><td>{escape(row.name)}</td>" + "".join(f"<td>{_shown(key, row.figures[key])}</td>" for key in keys) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(key: str, value: float) -> str:
    return f"{value:.2%}" if key in ("attainment", "served") else f"{value:,.2f}" if value != int(value) else f"{value:,.0f}"
