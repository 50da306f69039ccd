"""What is shown of nodes, by what the store says: plain values in, words out."""

from __future__ import annotations

import msgspec
import pytest

from nebula_core.admin.documents import StoreView
from nebula_core.admin.seen import Seen
from nebula_core.admin.status import status
from nebula_core.store import keys
from nebula_core.types import (
    DRAIN,
    READY,
    Assignment,
    EndpointInfo,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeRequest,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
)

ON_A = Assignment(replica_id="0", node_id="a", spec=ReplicaSpec(model_uid="org/m", engine="fake"), assignment_version="v1")
ON_B = msgspec.structs.replace(ON_A, replica_id="1", node_id="b", replaces="0")
ENDPOINT = EndpointInfo(model_uid="org/m", replica_id="0", node_id="a", assignment_version="v1", incarnation=1, engine="fake", state=READY)
DRAINED = {"a": NodeRequest(node_id="a", cordoned=True, drained=True)}
KNOWN = StoreView(kind="embedded", connected=True)


def nodes(*assignments, **changes):
    """All nodes by name, where `a` is up."""
    world = {
        "requests": {"org/m": ModelRequest(model_uid="org/m", engine="fake")},
        "plans": {"org/m": PlacementPlan(model_uid="org/m", plan_version=1, assignments=assignments)},
        "endpoints": {("org/m", "0"): ENDPOINT},
        "nodes": {"a": NodeStatus(node_id="a", address="10.0.0.1", labels={"zone": "x"}, replicas=("org/m/0",))},
        "scheduler": "host:1",
        "store": KNOWN,
    }
    return {node.node_id: node for node in status(Seen(**{**world, **changes})).nodes}


def what_keeps(*assignments, **changes):
    """Why the one replica on `a`, which is to be emptied, is still there."""
    (replica,) = nodes(*assignments, node_requests=DRAINED, **changes)["a"].assigned
    return replica.reason


def test_a_node_bears_its_labels_and_what_is_asked_of_it():
    shown = nodes(ON_A, node_requests=DRAINED)["a"]
    assert (shown.up, shown.cordoned, shown.drained, shown.given_up, shown.labels) == (True, True, True, False, {"zone": "x"})
    assert [(each.model_uid, each.replica_id, each.state) for each in shown.assigned] == [("org/m", "0", "ready")]


def test_nodes_that_plans_or_operators_name_are_missing_if_they_are_not_heard_of():
    shown = nodes(ON_A, ON_B, node_requests={"c": NodeRequest(node_id="c", cordoned=True, given_up=True)})
    assert {name: (node.up, node.given_up) for name, node in shown.items()} == {"a": (True, False), "b": (False, False), "c": (False, True)}


def test_where_nodes_were_never_read_none_is_said_to_be_missing():
    unread = StoreView(kind="embedded", connected=True, never_read=(keys.NODES,))
    assert nodes(ON_A, nodes={}, node_requests=DRAINED, store=unread) == {}


def test_a_replica_that_cannot_leave_a_drained_node_says_what_the_scheduler_says():
    refused = {"org/m": ModelStatus(model_uid="org/m", reasons=("1 of 1 replicas cannot be placed: no other node is up",))}
    assert what_keeps(ON_A, statuses=refused) == "it cannot move: 1 of 1 replicas cannot be placed: no other node is up"


def test_a_replica_that_leaves_a_drained_node_says_what_it_waits_for():
    draining = msgspec.structs.replace(ON_A, wanted=DRAIN)
    gateways = tuple(GatewayStatus(gateway_id=name, address="h:1", draining={"org/m/0": 2}) for name in "gh")
    assert what_keeps(ON_A, ON_B) == "replica 1 takes its place once that is ready"
    assert what_keeps(draining, gateways=gateways) == "it finishes its running requests (4 left), then it stops"
    assert what_keeps(draining) == "it finishes its running requests, then it stops"
    assert what_keeps(ON_A) == "the scheduler has not moved it yet"
    assert "no scheduler leads" in what_keeps(ON_A, scheduler=None)


def test_on_a_node_that_may_keep_them_replicas_say_why_they_are_not_ready():
    (replica,) = nodes(ON_A, endpoints={})["a"].assigned
    assert (replica.state, replica.reason) == ("placed", "the node a has not begun to start it")


@pytest.mark.parametrize("reported", ["org/m/7", "odd"])
def test_an_engine_that_no_plan_names_keeps_its_node_from_being_empty(reported):
    node = NodeStatus(node_id="a", address="10.0.0.1", replicas=(reported,))
    (replica,) = nodes(nodes={"a": node})["a"].assigned
    assert (f"{replica.model_uid}/{replica.replica_id}".strip("/"), replica.state) == (reported, "running")
