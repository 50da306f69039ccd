"""Whether the strategy that a model asks for can decide, by what its replicas report: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nebula_core.interfaces import Strategy
from nebula_core.types import EndpointStats

MOST_NAMED = 3
"""Replicas that are named, where only some lack a signal."""


def obstacle(name: str, fallback: str, strategies: Mapping[str, Strategy], stats: Mapping[str, EndpointStats]) -> str:
    """What keeps the strategy `name` from deciding among replicas with these `stats`, and who decides instead; empty: nothing does.

    `strategies` are those installed where this is asked, `stats` what is known of each replica that is routed to.
    """
    if not stats or not strategies:
        return ""
    instead = _instead(name, fallback, strategies, stats)
    if name not in strategies:
        return f'the strategy "{name}" is not installed here (installed: {", ".join(sorted(strategies))}); where it is not, {instead}'
    lack = _lack(strategies[name], stats)
    return f"{name} lacks {lack}; {instead}" if lack else ""


def _instead(name: str, fallback: str, strategies: Mapping[str, Strategy], stats: Mapping[str, EndpointStats]) -> str:
    other = strategies.get(fallback)
    if fallback == name or (other is not None and _lack(other, stats)):
        return "the replica with the fewest requests is taken"
    return f"{fallback} decides"


def _lack(strategy: Strategy, stats: Mapping[str, EndpointStats]) -> str:
    """The signals that it cannot do without, and which replicas do not report them; empty: none is missing."""
    if not strategy.signals:
        return ""
    silent = min(([replica for replica in stats if getattr(stats[replica], name, None) is None] for name in strategy.signals), key=len)
    if not silent or (strategy.signals_of == "any" and len(silent) < len(stats)):
        return ""
    return f"{' or '.join(strategy.signals)} of {len(silent)} of {len(stats)} ready replicas{_named(silent, stats)}"


def _named(silent: list[str], stats: Collection[str]) -> str:
    if len(silent) == len(stats):
        return ""
    more = ", …" if len(silent) > MOST_NAMED else ""
    return f" ({', '.join(silent[:MOST_NAMED])}{more})"
