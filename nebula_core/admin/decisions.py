"""What the workers of this gateway say of their decisions on a request, as a document, and why nothing is known of one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from nebula_core.admin.documents import CandidateView, Decisions, DecisionView
from nebula_core.admin.view import View
from nebula_core.interfaces import Explanation, Strategy

NO_GATEWAY = (
    "this process is no gateway, and it is gateways that choose a replica: run `nebula explain` where the gateway that served the "
    "request runs, with that one's settings (`nebula status` lists the gateways)"
)


async def known(view: View, request_id: str) -> Decisions | None:
    """All decisions on the request that this gateway's workers still know; `None`: this process is no gateway."""
    if view.explain is None:
        return None
    found, now = await view.explain(request_id), time.monotonic()
    views = tuple(_decision(each, now) for each in found.decisions)
    return Decisions(request_id=request_id, decisions=views, silent_workers=found.silent)


def why_none(view: View, request_id: str, found: Decisions | None) -> str:
    """Why nothing is known of a request, and what to do about it."""
    if found is None:
        return NO_GATEWAY
    silent = f" {found.silent_workers} of this gateway's workers did not answer: try again." if found.silent_workers else ""
    return (
        f'no decision on the request "{request_id}" is known here.{silent} What is kept: {_kept(view.strategies)}. The id is what the '
        "answer's header x-request-id says; if another gateway served the request, ask that one (`nebula status` lists them)"
    )


def _kept(strategies: Mapping[str, Strategy]) -> str:
    """What each strategy remembers."""
    parts = [f"the last {one.explains} decisions of {name} in each worker" for name, one in strategies.items() if one.explains]
    mute = [name for name, one in strategies.items() if not one.explains]
    if mute:
        parts.append(f"none of {', '.join(mute)}")
    return "; ".join(parts) or "nothing, for no strategy is installed"


def _decision(decision: Explanation, now: float) -> DecisionView:
    return DecisionView(
        model_uid=decision.model_uid,
        strategy=decision.strategy,
        ago_s=max(0.0, now - decision.at),
        picked=decision.picked,
        reason=decision.reason,
        why=decision.why,
        figures=_finite(decision.figures),
        candidates=tuple(CandidateView(replica_id=one.replica_id, figures=_finite(one.figures)) for one in decision.candidates),
    )


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """JSON has no infinity: what a strategy could not put a number to is left out."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
