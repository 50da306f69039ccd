"""Whether Nebula's routing strategy decided, or its fallback: a cheap fallback would make a fast row that means nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

ROUTED, DECIDED = "nebula_route_total", "nebula_strategy_prefix_decision_total"
_SERIES = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def counts(page: str) -> dict[str, float]:
    """Requests by who decided, from a page of Nebula's metrics: route outcomes, and the prefix strategy's reasons."""
    found: dict[str, float] = {}
    for name, labels, value in _SERIES.findall(page):
        if name in (ROUTED, DECIDED):
            label = dict(_LABEL.findall(labels))["status" if name == ROUTED else "reason"]
            found[label] = found.get(label, 0.0) + float(value)
    return found


def complaint(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What is wrong with the decisions between two counts; empty if the prefix strategy made them all."""
    made = {label: count - before.get(label, 0.0) for label, count in after.items()}
    reasons = sum(count for label, count in made.items() if label.startswith("prefix_"))
    others = {label: count for label, count in made.items() if count and label != "picked" and not label.startswith("prefix_")}
    if others:
        return "not decided by the strategy: " + ", ".join(f"{label} {count:g}" for label, count in sorted(others.items()))
    if not reasons or reasons < made.get("picked", 0.0):
        return f"the prefix strategy decided {reasons:g} of {made.get('picked', 0.0):g} requests"
    return ""
