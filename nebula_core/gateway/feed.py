"""From the store's state to the routing table: which replicas may be routed to, and what changed since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from nebula_core.gateway.link import Table
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.types import READY, RUN, EndpointInfo, ModelRequest, ModelStatus, PlacementPlan


def model_route(
    request: ModelRequest, plan: PlacementPlan | None, endpoints: Iterable[EndpointInfo], boot_s: float | None = None
) -> ModelRoute:
    """One model of the table. A replica is a candidate if it is ready and the plan wants just this version of it to run.

    An endpoint outlives the heartbeat of its node in the store, on purpose: a node that is not heard of may still serve, and the
    workers find out by connecting.
    """
    endpoints = list(endpoints)
    wanted = {(a.replica_id, a.assignment_version) for a in plan.assignments if a.wanted == RUN} if plan else set()
    ready = [e for e in endpoints if e.state == READY and e.url and (e.replica_id, e.assignment_version) in wanted]
    return ModelRoute(
        model_uid=request.model_uid,
        aliases=request.aliases,
        created=request.created,
        strategy=request.strategy,
        first_byte_timeout_s=request.first_byte_timeout_s,
        routes=tuple(_route(endpoint) for endpoint in sorted(ready, key=lambda e: e.replica_id)),
        note="" if ready else _why_none(len(wanted), endpoints),
        off=(request.replicas if request.max_replicas is None else request.max_replicas) == 0,
        boot_s=boot_s,
    )


def boot_s(status: ModelStatus | None) -> float | None:
    """How long the model's replicas take to be ready, about: what changes little changes no table."""
    learned = status.scaling.boot_s if status is not None and status.scaling is not None else None
    return None if learned is None else float(f"{learned:.2g}")


def changes(old: Mapping[str, ModelRoute], new: Mapping[str, ModelRoute], revision: int) -> Table:
    """What turns `old` into `new`; both by model_uid."""
    changed = tuple(route for uid, route in new.items() if old.get(uid) != route)
    return Table(revision=revision, whole=False, models=changed, removed=tuple(uid for uid in old if uid not in new))


def new_replicas(old: Mapping[str, ModelRoute], changed: Iterable[ModelRoute]) -> list[tuple[str, str]]:
    """The replicas (model_uid, replica_id) that `changed` models have and `old` ones had not, or only as another incarnation."""
    found = []
    for model in changed:
        before = {(route.replica_id, route.incarnation) for route in old[model.model_uid].routes} if model.model_uid in old else set()
        found += [(model.model_uid, route.replica_id) for route in model.routes if (route.replica_id, route.incarnation) not in before]
    return found


def _route(endpoint: EndpointInfo) -> Route:
    return Route(
        model_uid=endpoint.model_uid,
        replica_id=endpoint.replica_id,
        assignment_version=endpoint.assignment_version,
        incarnation=endpoint.incarnation,
        url=endpoint.url,
        served_names=endpoint.served_names,
        api_key=endpoint.api_key,
    )


def _why_none(wanted: int, endpoints: list[EndpointInfo]) -> str:
    if not wanted:
        return "no replica of it is placed"
    states = Counter(endpoint.state for endpoint in endpoints)
    placed = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none started yet"
    return f"of {wanted} wanted replicas: {placed}"
