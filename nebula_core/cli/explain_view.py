"""Decisions on a request as text: for each one the replicas that were considered, the picked one marked, with what they were weighed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from nebula_core.cli.output import columns

Document = Mapping[str, Any]
MOST_SHOWN = 10
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
MINUTE_S, HOUR_S = 60, 3600


def view(document: Document, *, every: bool = False) -> Group:
    """All decisions, the first one first; of many candidates the first ones and the picked one, unless `every` one is asked for."""
    lines: list[RenderableType] = []
    decisions = document["decisions"]
    for number, decision in enumerate(decisions, 1):
        lines += [Text()] if lines else []
        lines += _decision(decision, f"{number}. " if len(decisions) > 1 else "", every=every)
    if silent := document.get("silent_workers"):
        lines += [Text(), Text(f"{silent} gateway workers did not answer in time and may know more: try again.", style="yellow")]
    return Group(*lines)


def figure(name: str, value: float) -> tuple[str, str]:
    """A figure's title and its value for people, by the unit that its name ends with."""
    if name.endswith("_s"):
        return _title(name[:-2]), _seconds(value)
    if name.endswith("_bytes"):
        return _title(name[:-6]), _bytes(value)
    return _title(name), f"{value:.4g}"


def _decision(decision: Document, number: str, *, every: bool) -> Iterator[RenderableType]:
    yield Text.assemble(
        number,
        (decision["model_uid"], "bold"),
        f", {_ago(decision['ago_s'])} ago: {decision['strategy']} picked the replica ",
        (decision["picked"], "bold green"),
        f" ({decision['reason']})",
    )
    facts = [decision["why"]] if decision["why"] else []
    facts += [": ".join(figure(name, value)) for name, value in decision["figures"].items()]
    for fact in facts:
        yield Padding(Text(fact, style="dim"), (0, 0, 0, 2), expand=False)
    candidates = decision["candidates"]
    shown = [one for place, one in enumerate(candidates) if every or place < MOST_SHOWN or one["replica_id"] == decision["picked"]]
    for line in _table(shown, decision["picked"]) if shown else ():
        yield Padding(line, (0, 0, 0, 2), expand=False)
    if more := len(candidates) - len(shown):
        yield Padding(Text(f"and {more} more, which `--all` shows", style="dim"), (0, 0, 0, 4), expand=False)


def _table(candidates: Sequence[Document], picked: str) -> list[Text]:
    names = list(dict.fromkeys(name for one in candidates for name in one["figures"]))
    titles = [Text(title.upper(), style="dim") for title in ("", "replica", *(figure(name, 0)[0] for name in names))]
    return columns([titles, *(_cells(one, names, marked=one["replica_id"] == picked) for one in candidates)])


def _cells(candidate: Document, names: Sequence[str], *, marked: bool) -> list[str | Text]:
    figures, style = candidate["figures"], "bold green" if marked else ""
    values = [figure(name, figures[name])[1] if name in figures else "-" for name in names]
    return [Text(cell, style=style) for cell in ("→" if marked else "", candidate["replica_id"], *values)]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _seconds(value: float) -> str:
    if abs(value) < 1:
        return f"{value * 1000:.1f} ms" if abs(value) < 0.1 else f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if abs(value) < 100 else f"{value:.0f} s"


def _bytes(value: float) -> str:
    unit = 0
    while abs(value) >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.1f} {UNITS[unit]}"


def _ago(value: float) -> str:
    if value < MINUTE_S:
        return f"{value:.0f} s" if value >= 1 else "less than a second"
    return f"{value / MINUTE_S:.0f} min" if value < HOUR_S else f"{value / HOUR_S:.1f} h"
