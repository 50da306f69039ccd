"""What a node reads from its copy of the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nebula_core.node.reconcile import NodePlan, Observed
from nebula_core.node.replica import Replica, ReplicaState
from nebula_core.store import keys
from nebula_core.store.mirror import Mirror
from nebula_core.types import EndpointInfo, GatewayStatus, PlacementPlan

PREFIXES = (keys.PLACEMENTS, keys.ENDPOINTS, keys.GATEWAYS)
"""What a node's mirror must follow: not the fleet's stats, which would come to each of a thousand nodes."""


def plans_for(node_id: str, mirror: Mirror) -> dict[str, NodePlan]:
    """The node's part of every plan that can be read, by model."""
    found = {}
    for uid, plan in keys.by_model(mirror.values(keys.PLACEMENTS, PlacementPlan)).items():
        entry = mirror.entry(keys.placement(uid))
        if entry is not None:
            mine = {each.replica_id: each for each in plan.assignments if each.node_id == node_id}
            elsewhere = frozenset(each.replica_id for each in plan.assignments) - mine.keys()
            found[uid] = NodePlan(entry.mod_revision, mine, elsewhere)
    return found


def observe(mirror: Mirror, replicas: Mapping[Replica, ReplicaState], gone: Collection[Replica], *, await_gateways: bool) -> Observed:
    """What there is, without the endpoints that are about to be deleted.

    While the store is away nobody knows which gateways live. With `await_gateways`, that there is none does not count as known either.
    """
    gateways = tuple(mirror.values(keys.GATEWAYS, GatewayStatus).values())
    endpoints = keys.by_replica(mirror.values(keys.ENDPOINTS, EndpointInfo))
    return Observed(
        replicas=replicas,
        endpoints={replica: endpoint for replica, endpoint in endpoints.items() if replica not in gone},
        gateways=gateways if mirror.connected and (gateways or not await_gateways) else None,
    )


def has_endpoint(node_id: str, mirror: Mirror, replica: Replica) -> bool:
    """Whether the store has an endpoint of this node for the replica; where that has moved, another node's is none of ours."""
    endpoint = mirror.get(keys.endpoint(*replica), EndpointInfo)
    return endpoint is not None and endpoint.node_id == node_id
