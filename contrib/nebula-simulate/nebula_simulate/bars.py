"""One chart as SVG: a bar per strategy, for results at a single load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from nebula_simulate.chart import WIDTH

NAME, ROW, VALUE = 104, 26, 64
"""Width of the names, height of a bar with what is around it, width of the values."""


def bars(values: Mapping[str, float], colours: Mapping[str, str], shown: Callable[[float], str]) -> str:
    """The SVG; each bar begins at zero and ends with its value in words."""
    longest = max(values.values()) or 1.0
    parts = []
    for place, (name, value) in enumerate(values.items()):
        y, length = place * ROW, (WIDTH - NAME - VALUE) * value / longest
        parts.append(f'<text x="{NAME - 8}" y="{y + 17}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{NAME}" y="{y + 5}" width="{length:.1f}" height="{ROW - 10}" fill="{colours[name]}"/>')
        parts.append(f'<text x="{NAME + length + 6:.1f}" y="{y + 17}">{shown(value)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {len(values) * ROW}" role="img">{"".join(parts)}</svg>'
