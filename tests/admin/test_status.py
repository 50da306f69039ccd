"""What is shown of a model, by what the store says: plain values in, words out."""

from __future__ import annotations

import msgspec
import pytest

from nebula_core.admin.documents import StoreView
from nebula_core.admin.seen import Seen
from nebula_core.admin.status import model, model_state, scaling, status
from nebula_core.interfaces import Strategy
from nebula_core.types import (
    DRAIN,
    READY,
    STARTING,
    UNHEALTHY,
    Assignment,
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    GpuStatus,
    ModelRequest,
    ModelStatus,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
    Scaling,
)

REQUEST = ModelRequest(model_uid="m", engine="fake", aliases=("x",))
ASSIGNMENT = Assignment(replica_id="0", node_id="a", spec=ReplicaSpec(model_uid="m", engine="fake"), assignment_version="v1")
ENDPOINT = EndpointInfo(
    model_uid="m", replica_id="0", node_id="a", assignment_version="v1", incarnation=3, engine="fake", url="http://a:1", state=READY,
    api_key="sk-1",
)  # fmt: skip
NODE = NodeStatus(node_id="a", address="10.0.0.1", engines=("fake",), gpus=(GpuStatus(index=0, name="H200"),))
STORE = StoreView(kind="embedded", connected=True)


def plan(*assignments):
    return {"m": PlacementPlan(model_uid="m", plan_version=1, assignments=assignments)}


def seen(endpoint=ENDPOINT, **changes):
    world = {
        "requests": {"m": REQUEST},
        "plans": plan(ASSIGNMENT),
        "statuses": {"m": ModelStatus(model_uid="m", wanted=1, placed=1)},
        "endpoints": {("m", "0"): endpoint} if endpoint else {},
        "nodes": {"a": NODE},
        "scheduler": "host:1",
        "store": STORE,
    }
    return Seen(**{**world, **changes})


class FakeStrategy(Strategy):
    def select(self, request, candidates):
        return None


class NeedsUsage(FakeStrategy):
    signals = ("kv_cache_usage",)


def test_each_model_shows_the_strategy_it_is_routed_by():
    own = msgspec.structs.replace(REQUEST, strategy="own")
    assert model(seen(strategy="of_all"), "m").strategy == "of_all"
    assert model(seen(strategy="of_all", requests={"m": own}), "m").strategy == "own"


def test_signals_count_of_replicas_that_are_routed_to_and_of_the_engine_that_runs():
    world = {"strategies": {"usage": NeedsUsage(), "load": FakeStrategy()}, "strategy": "usage", "fallback": "load"}
    sample = EndpointStats(kv_cache_usage=0.5, incarnation=3)
    earlier, lacking = msgspec.structs.replace(sample, incarnation=2), "usage lacks kv_cache_usage of 1 of 1 ready replicas; load decides"
    for stats, routing in ((None, lacking), (earlier, lacking), (sample, "")):
        assert model(seen(stats={("m", "0"): stats} if stats else {}, **world), "m").routing == routing
    assert model(seen(msgspec.structs.replace(ENDPOINT, state=STARTING), **world), "m").routing == ""


def test_a_ready_model_is_shown_with_its_replicas():
    shown = model(seen(stats={("m", "0"): EndpointStats(running=2)}), "m")
    assert (shown.state, shown.wanted, shown.ready, shown.reasons, shown.aliases) == ("ready", 1, 1, (), ("x",))
    (replica,) = shown.replicas
    assert (replica.state, replica.reason, replica.url, replica.incarnation) == ("ready", "", "http://a:1", 3)
    assert replica.stats["running"] == 2
    assert "sk-1" not in shown.model_dump_json()


@pytest.mark.parametrize(
    ("world", "state", "replica_state", "reason"),
    [
        (seen(None), "starting", "placed", "the node a has not begun to start it"),
        (seen(msgspec.structs.replace(ENDPOINT, state=STARTING)), "starting", "starting", "the engine is starting"),
        (seen(msgspec.structs.replace(ENDPOINT, state=UNHEALTHY, reason="exit 1")), "failed", "unhealthy", "exit 1"),
        (seen(msgspec.structs.replace(ENDPOINT, state="dreaming")), "failed", "dreaming", 'its node says "dreaming"'),
        (seen(msgspec.structs.replace(ENDPOINT, assignment_version="v0")), "starting", "placed", "has not begun to start it"),
        (seen(nodes={}), "degraded", "abnormal", "a has not been heard of for 30 s or more; requests still go to it while it answers"),
        (seen(None, nodes={}, lease_s=9), "failed", "abnormal", "has not been heard of for 9 s or more, and it was not ready then"),
        (seen(nodes={}, plans=plan(msgspec.structs.replace(ASSIGNMENT, wanted=DRAIN))), "unplaced", "draining", "ends when the node is"),
        (seen(plans=plan(msgspec.structs.replace(ASSIGNMENT, wanted=DRAIN))), "unplaced", "draining", "finishes its running requests"),
        (seen(requests={}, plans=plan(msgspec.structs.replace(ASSIGNMENT, wanted=DRAIN))), "unloading", "draining", "then it stops"),
    ],
)
def test_what_is_not_ready_says_why(world, state, replica_state, reason):
    shown = model(world, "m")
    assert (shown.state, shown.replicas[0].state) == (state, replica_state)
    assert reason in shown.replicas[0].reason


def test_what_is_not_placed_is_explained_by_the_scheduler_or_by_its_absence():
    refused = ModelStatus(model_uid="m", wanted=1, reasons=("no room",))
    assert model(seen(None, plans={}, statuses={"m": refused}), "m").reasons == ("no room",)
    assert "no scheduler runs" in model(seen(None, plans={}, statuses={}, scheduler=None), "m").reasons[0]


@pytest.mark.parametrize(
    ("wanted", "running", "routed", "state"),
    [
        (0, [], 0, "stopped"),
        (2, ["ready", "ready"], 2, "ready"),
        (2, ["ready", "starting"], 1, "degraded"),
        (2, ["abnormal", "starting"], 1, "degraded"),
        (2, ["abnormal", "starting"], 0, "starting"),
        (2, ["starting", "unhealthy"], 0, "starting"),
        (2, ["unhealthy"], 0, "failed"),
        (2, [], 0, "unplaced"),
    ],
)
def test_a_models_state_follows_its_replicas(wanted, running, routed, state):
    assert model_state(wanted, running, routed) == state


def test_replicas_that_are_replaced_are_told_apart_from_those_that_replace_them():
    new = msgspec.structs.replace(ASSIGNMENT, replica_id="1", node_id="b", assignment_version="v2", replaces="0")
    old, successor = model(seen(plans=plan(ASSIGNMENT, new)), "m").replicas
    assert (old.replaced_by, old.replaces, old.routed) == ("1", "", True)
    assert (successor.replaced_by, successor.replaces, successor.routed) == ("", "0", False)


def test_an_engine_may_make_other_than_replicas_of_a_request():
    assert model(seen(wanted={"m": 2}), "m").state == "degraded"


def test_everything_is_listed_by_name_and_a_node_that_is_gone_is_said_to_be_down():
    gateway = GatewayStatus(gateway_id="g", address="h:8080", applied_revision=7, demand={"m": 2})
    shown = status(seen(nodes={"b": msgspec.structs.replace(NODE, node_id="b")}, gateways=(gateway,)))
    assert [(node.node_id, node.up) for node in shown.nodes] == [("a", False), ("b", True)]
    assert (shown.nodes[1].address, shown.nodes[1].gpus[0].name) == ("10.0.0.1", "H200")
    assert (shown.gateways[0].applied_revision, shown.gateways[0].demand) == (7, {"m": 2})


class NewerGateway(GatewayStatus, frozen=True, kw_only=True):
    """A gateway's heartbeat with what is nobody's business but gateways'."""

    peers: str = "10.0.0.7:8082"
    peers_key: str = "sk-peers"


class NewerNode(NodeStatus, frozen=True, kw_only=True):
    join_key: str = "sk-join"


def test_only_what_the_documents_name_is_shown_of_gateways_and_nodes():
    world = seen(gateways=(NewerGateway(gateway_id="g", address="h:8080"),), nodes={"a": NewerNode(node_id="a", address="10.0.0.1")})
    shown = status(world).model_dump_json()
    assert "h:8080" in shown
    assert "sk-" not in shown


def test_a_model_that_load_decides_on_says_how_many_and_why():
    bounded = msgspec.structs.replace(REQUEST, min_replicas=1, max_replicas=4)
    full = Scaling(at=50.0, replicas=3, policy="load", reason="the KV caches are 90 % full", inputs={"kv_cache_usage": 0.9})
    changed = msgspec.structs.replace(full, changed_at=20.0, changed_from=2, changed_why="the KV caches were 85 % full")
    nobody = msgspec.structs.replace(full, policy="", reason="load changes nothing: no scaler is installed")
    for account, told in (
        (full, "3 of 1 to 4 replicas; load: the KV caches are 90 % full"),
        (changed, "3 of 1 to 4 replicas; load: the KV caches are 90 % full; 2 → 3 30 s ago: the KV caches were 85 % full"),
        (nobody, "3 of 1 to 4 replicas; load changes nothing: no scaler is installed"),
    ):
        shown = model(seen(ENDPOINT, requests={"m": bounded}, statuses={"m": ModelStatus(model_uid="m", scaling=account)}), "m")
        assert (shown.scaling, shown.scaling_inputs) == (told, {"kv_cache_usage": 0.9})


@pytest.mark.parametrize(("seconds", "told"), [(119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (172_800, "2 days ago")])
def test_how_long_ago_something_changed_is_told_as_exactly_as_it_matters(seconds, told):
    account = Scaling(at=200_000.0, replicas=3, policy="load", changed_at=200_000.0 - seconds, changed_from=2, changed_why="so")
    assert f"2 → 3 {told}: so" in scaling(account, msgspec.structs.replace(REQUEST, max_replicas=4))


def test_bounds_that_load_cannot_follow_say_what_is_missing():
    account = Scaling(replicas=1, reason="load changes nothing: min_replicas is set and max_replicas is not; set it, too")
    assert scaling(account, msgspec.structs.replace(REQUEST, min_replicas=1)) == account.reason
