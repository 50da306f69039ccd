"""Figures of many runs, put together: one row per strategy and load, with the medians of its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from nebula_simulate.errors import SimulationError
from nebula_simulate.runs import Figures, Run, Setup


@dataclass(frozen=True)
class Row:
    """A strategy at a load."""

    strategy: str
    load: float
    medians: Figures
    seeds: tuple[Figures, ...]
    """Of each seed, in their order."""


def rows(figures: Mapping[Run, Figures], order: Iterable[str]) -> list[Row]:
    """By load, then in the order of the strategies; a strategy and load of which nothing came is left out."""
    found: dict[tuple[float, str], list[Figures]] = {}
    for run in sorted(figures):
        found.setdefault((run.load, run.strategy), []).append(figures[run])
    names, loads = list(order), sorted({load for load, _ in found})
    return [_row(name, load, found[load, name]) for load in loads for name in names if (load, name) in found]


def _row(name: str, load: float, seeds: list[Figures]) -> Row:
    return Row(name, load, {key: median(one[key] for one in seeds) for key in seeds[0]}, tuple(seeds))


def check(found: Iterable[Row], setup: Setup) -> None:
    """Raise `SimulationError` if no request was served at all: a table of dashes tells nobody why."""
    medians = [row.medians for row in found]
    if any(one["requests"] for one in medians):
        return
    why = f"nobody asked within {setup.duration_s:g} s; give a longer --duration" if setup.duration_s else "there is none in it"
    if any(one["refused"] for one in medians):
        why = f"none of them fits a replica with {setup.fleet.capacity_tokens:,} tokens of KV cache; give more --kv-tokens"
    raise SimulationError(f"{setup.trace}: no request was replayed: {why}")


def document(found: Iterable[Row], setup: Setup) -> list[dict[str, Any]]:
    """The rows as JSON: the medians by name, each seed's value under `seeds`, and the parameters."""
    parameters = described(setup)
    return [
        {
            "strategy": row.strategy,
            "load": row.load,
            **row.medians,
            "seeds": {key: [one[key] for one in row.seeds] for key in row.medians},
            "parameters": parameters,
        }
        for row in found
    ]


def described(setup: Setup) -> dict[str, Any]:
    """All that the figures follow from."""
    fleet = setup.fleet
    return {
        "trace": setup.trace.name,
        "format": setup.trace_format,
        "replicas": fleet.replicas,
        "model": fleet.model,
        "kv_tokens": fleet.capacity_tokens,
        "engine": dict(fleet.parameters),
        "gateways": setup.gateways,
        "event_delay_s": setup.event_delay_s,
        "sessions": setup.clients,
        "duration_s": setup.duration_s,
        "distinct": setup.distinct,
        "slo_ttft_s": setup.slo_ttft_s,
    }
