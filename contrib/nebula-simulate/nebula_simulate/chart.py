"""One chart as SVG: lines over the load, one per strategy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 38
LOG_FROM = 8.0
"""Values whose largest is so many times the smallest are drawn on a logarithmic axis."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """From values to a place between 0 and 1."""

    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """Where the value lies on the axis."""
        if self.log:
            return (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values to label."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            inside = [value for value in found if self.low <= value <= self.high]
            return inside if len(inside) < 8 else [value for value in inside if f"{value:e}"[0] == "1"]
        step = _round_step((self.high - self.low) / 5)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


def chart(series: Mapping[str, Points], colours: Mapping[str, str], shown: Callable[[float], str], *, from_zero: bool = False) -> str:
    """The SVG of all series; `shown` writes a value, and `from_zero` keeps the axis linear."""
    across = _across([x for points in series.values() for x, _ in points])
    up = _up([y for points in series.values() for _, y in points], from_zero)
    parts = [_grid(across, up, sorted({x for points in series.values() for x, _ in points}), shown)]
    parts += [_line(name, points, colours[name], across, up, shown) for name, points in series.items()]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _across(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    return Axis(low, high, False) if high > low else Axis(low - 1, high + 1, False)


def _up(values: Sequence[float], from_zero: bool) -> Axis:
    low, high = min(values), max(values)
    if not from_zero and low > 0 and high / low >= LOG_FROM:
        return Axis(low / 1.15, high * 1.15, True)
    return Axis(0.0, high * 1.08 or 1.0, False)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _grid(across: Axis, up: Axis, loads: Sequence[float], shown: Callable[[float], str]) -> str:
    parts = []
    for value in up.ticks():
        y = _y(up, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{shown(value)}</text>')
    for value in loads:
        parts.append(f'<text x="{_x(across, value):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">load</text>')
    return "".join(parts)


def _line(name: str, points: Points, colour: str, across: Axis, up: Axis, shown: Callable[[float], str]) -> str:
    places = [(f"{_x(across, x):.1f}", f"{_y(up, y):.1f}") for x, y in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(
        f'<circle cx="{x}" cy="{y}" r="3.2"><title>{escape(name)} at load {load:g}: {shown(value)}</title></circle>'
        for (x, y), (load, value) in zip(places, points, strict=True)
    )
    return f'<g style="--ink:{colour}"><polyline points="{line}"/>{dots}</g>'


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
