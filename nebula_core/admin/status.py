"""The status of everything, in words: pure functions from the store's values to what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nebula_core.admin.documents import GatewayView, ModelView, ReplicaStatus, Status
from nebula_core.admin.nodes import nodes
from nebula_core.admin.replicas import PLACED, replicas
from nebula_core.admin.routing import obstacle
from nebula_core.admin.seen import Seen
from nebula_core.masks import mask
from nebula_core.scheduler.autoscale import bounds, is_scaled
from nebula_core.store import keys
from nebula_core.types import DRAINING, READY, STARTING, EndpointStats, ModelRequest, Scaling

NO_STATS = EndpointStats()


def status(seen: Seen) -> Status:
    """Everything at a glance, in order of names."""
    models = tuple(model(seen, uid) for uid in sorted({*seen.requests, *seen.plans}))
    return Status(
        models=models,
        nodes=nodes(seen, models),
        gateways=tuple(GatewayView.model_validate(msgspec.to_builtins(gateway)) for gateway in seen.gateways),
        scheduler=seen.scheduler,
        scheduler_problem=seen.scheduler_problem,
        store=seen.store,
    )


def model(seen: Seen, uid: str) -> ModelView:
    """One model, which has a request or a plan."""
    request, placed = seen.requests.get(uid), replicas(seen, uid)
    running = [replica.state for replica in placed if replica.state != DRAINING]
    asked_for = request is not None or not seen.knows(keys.MODEL_REQUESTS)
    wanted = seen.wanted.get(uid, request.replicas) if request else len(running) if asked_for else 0
    strategy = (request.strategy if request else None) or seen.strategy
    account = seen.statuses[uid].scaling if uid in seen.statuses else None
    return ModelView(
        model_uid=uid,
        engine=request.engine if request else _planned_engine(seen, uid),
        aliases=request.aliases if request else (),
        state=model_state(wanted, running, sum(replica.routed for replica in placed)) if asked_for else "unloading",
        wanted=wanted,
        ready=running.count(READY),
        reasons=_reasons(seen, uid),
        strategy=strategy,
        routing=obstacle(strategy, seen.fallback, seen.strategies, _signals(seen, uid, placed)),
        scaling=scaling(account, request) if account and request else "",
        scaling_inputs=account.inputs if account else {},
        replicas=placed,
        request=mask(msgspec.to_builtins(request), seen.secrets) if request else None,
    )


def scaling(account: Scaling, request: ModelRequest) -> str:
    """What load asks for within which bounds, why, and what changed last, in words."""
    if not is_scaled(request):
        return account.reason
    least, most = bounds(request)
    said = f"{account.replicas} of {least} to {most} replicas; {account.policy}{': ' if account.policy else ''}{account.reason}"
    if account.changed_at is None or account.changed_from is None:
        return said
    change = f"{account.changed_from} → {account.replicas} {_ago(account.at - account.changed_at)}"
    return f"{said}; {change}: {account.changed_why}"


def _ago(seconds: float) -> str:
    """How long ago something was, as exactly as it matters."""
    for unit_s, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def model_state(wanted: int, running: Sequence[str], routed: int) -> str:
    """A model's state by its replicas' states, the draining ones left out; `routed` is how many get requests."""
    if wanted == 0:
        return "stopped"
    if running.count(READY) >= wanted:
        return "ready"
    if routed:
        return "degraded"
    if PLACED in running or STARTING in running:
        return "starting"
    return "failed" if running else "unplaced"


def _planned_engine(seen: Seen, uid: str) -> str:
    return next((each.spec.engine for each in seen.plans[uid].assignments), "")


def _reasons(seen: Seen, uid: str) -> tuple[str, ...]:
    if uid in seen.statuses:
        return seen.statuses[uid].reasons
    if seen.scheduler_problem:
        return (seen.scheduler_problem,)
    if seen.scheduler is None and seen.knows(keys.SCHEDULER_LEADER):
        return ("no scheduler runs, so nothing is placed; start one with `nebula scheduler`",)
    return ()


def _signals(seen: Seen, uid: str, placed: Sequence[ReplicaStatus]) -> dict[str, EndpointStats]:
    """What is known of the replicas that are routed to; samples of an engine's earlier start do not count."""
    routed = {replica.replica_id: replica.incarnation for replica in placed if replica.routed}
    known = {replica_id: seen.stats.get((uid, replica_id), NO_STATS) for replica_id in routed}
    return {replica_id: stats if stats.incarnation == routed[replica_id] else NO_STATS for replica_id, stats in known.items()}
