"""What replicas need of their place, in whatever fleet and whatever happens to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nebula_placement_binpack import Binpack
from nebula_placement_spread import Settings as SpreadSettings
from nebula_placement_spread import Spread

from nebula_core.scheduler.reconcile import Rules, reconcile
from nebula_core.scheduler.world import Memory, Wanted
from nebula_core.testing.fleet import Fleet
from nebula_core.testing.gpus import gpu, node, using, wanted
from nebula_core.types import DRAIN, RUN, UNHEALTHY, Assignment, MachineStatus, NodeStatus

RULES = {"first fit": Rules(), "binpack": Rules(placement=Binpack()), "spread": Rules(placement=Spread(SpreadSettings()))}
LABELS = st.dictionaries(st.just("zone"), st.sampled_from("ab"))
GPUS = st.lists(
    st.builds(gpu, st.just(0), st.sampled_from([24, 80]), st.sampled_from([0.5, 20]), ecc_errors=st.sampled_from([None, 0, 0, 2]))
)


def _numbered(gpus):
    return tuple(msgspec.structs.replace(each, index=index) for index, each in enumerate(gpus))


NODES = st.lists(st.tuples(GPUS, LABELS, st.integers(1, 8)), min_size=1, max_size=4).map(
    lambda made: [
        node(f"n{i}", *_numbered(gpus), labels=labels, machine=MachineStatus(cpus=cpus)) for i, (gpus, labels, cpus) in enumerate(made)
    ]
)
GOALS = st.dictionaries(
    st.sampled_from("mno"),
    st.fixed_dictionaries(
        {
            "number": st.integers(0, 4),
            "gpus": st.integers(0, 2),
            "args": st.sampled_from([{}, {"variant": 1}]),
            "memory": st.sampled_from([None, None, 10, 40]),
            "node_labels": LABELS,
            "max_per_node": st.sampled_from([None, None, 1, 2]),
        }
    ),
).map(lambda made: {uid: wanted(model=uid, **table) for uid, table in made.items()})
EVENTS = st.lists(st.sampled_from(["obey", "run", "lose", "return", "break", "memory", "relabel", "ecc"]), max_size=6)
HISTORIES = st.lists(st.tuples(GOALS, EVENTS), min_size=1, max_size=4)


def happen(fleet: Fleet, event: str, desired: Mapping[str, Wanted], lost: dict[str, NodeStatus]) -> None:
    first = min(fleet.nodes, default=None)
    match event:
        case "obey":
            fleet.obey()
        case "run":
            fleet.run(desired, steps=3)
        case "lose" if first:
            lost[first] = fleet.nodes.pop(first)
        case "return":
            fleet.nodes.update(lost)
        case "break" if fleet.endpoints:
            replica = max(fleet.endpoints)
            fleet.endpoints[replica] = msgspec.structs.replace(fleet.endpoints[replica], state=UNHEALTHY)
        case "memory" if first:
            using(fleet, first, used=18)
        case "relabel" if first:
            fleet.nodes[first] = msgspec.structs.replace(fleet.nodes[first], labels={"zone": "b"})
        case "ecc" if first and fleet.nodes[first].gpus:
            bad, *rest = fleet.nodes[first].gpus
            fleet.nodes[first] = msgspec.structs.replace(fleet.nodes[first], gpus=(msgspec.structs.replace(bad, ecc_errors=1), *rest))


def check_new(fleet: Fleet, desired: Mapping[str, Wanted], before: list[Assignment]) -> None:
    """All constraints hold for what was placed just now, and no GPU is given twice."""
    after = fleet.assignments()
    assert max(Counter((a.node_id, index) for a in after for index in a.gpu_indexes).values(), default=1) == 1
    known = {(a.spec.model_uid, a.replica_id, a.assignment_version) for a in before}
    for new in after:
        if (new.spec.model_uid, new.replica_id, new.assignment_version) in known:
            continue
        needs, place = desired[new.spec.model_uid].needs, fleet.nodes[new.node_id]
        gpus = [each for each in place.gpus if each.index in new.gpu_indexes]
        assert len(gpus) == new.spec.gpus
        assert not any(each.ecc_errors for each in gpus)
        assert needs.node_labels.items() <= place.labels.items()
        assert all(each.memory_total_bytes - each.memory_used_bytes >= (needs.gpu_memory_bytes or 0) for each in gpus)
        here = sum(a.node_id == new.node_id and a.spec.model_uid == new.spec.model_uid for a in after)
        assert needs.max_per_node is None or here <= needs.max_per_node


@pytest.mark.parametrize("policy", RULES)
@given(nodes=NODES, history=HISTORIES)
@settings(max_examples=120, deadline=None)
def test_whatever_happens_what_is_placed_has_what_it_needs(policy, nodes, history):
    fleet, lost = Fleet(*nodes, rules=RULES[policy]), {}
    for desired, events in history:
        for event in ["", *events]:
            happen(fleet, event, desired, lost)
            before = fleet.assignments()
            fleet.decide(desired)
            check_new(fleet, desired, before)


@pytest.mark.parametrize("policy", RULES)
@given(nodes=NODES, history=HISTORIES)
@settings(max_examples=60, deadline=None)
def test_once_the_world_stands_still_nothing_moves_and_what_is_missing_is_explained(policy, nodes, history):
    fleet, lost = Fleet(*nodes, rules=RULES[policy]), {}
    for desired, events in history:
        for event in events:
            happen(fleet, event, desired, lost)
        fleet.decide(desired)
    fleet.nodes.update(lost)
    desired = history[-1][0]
    fleet.run(desired, steps=50)
    again = fleet.decide(desired)
    assert (again.plans, again.statuses) == ({}, {})
    for uid, goal in desired.items():
        status = fleet.statuses[uid]
        assert status.wanted == len(goal.specs)
        assert bool(status.reasons) == (status.placed < status.wanted)
        assert not any(a.wanted == DRAIN for a in fleet.assignments())


@pytest.mark.parametrize("policy", RULES)
@given(nodes=NODES, history=HISTORIES)
@settings(max_examples=60, deadline=None)
def test_the_order_in_which_things_are_listed_does_not_matter_to_any_policy(policy, nodes, history):
    fleet, lost = Fleet(*nodes, rules=RULES[policy]), {}
    for desired, events in history:
        for event in events:
            happen(fleet, event, desired, lost)
            fleet.decide(desired)
    desired, seen = history[-1][0], fleet.observed()
    names = ("plans", "statuses", "nodes", "endpoints")
    turned = type(seen)(**{name: dict(reversed(getattr(seen, name).items())) for name in names})
    one = reconcile(desired, seen, Memory(), fleet.now, RULES[policy])
    assert one == reconcile(dict(reversed(desired.items())), turned, Memory(), fleet.now, RULES[policy])


@pytest.mark.parametrize("policy", RULES)
@given(nodes=NODES, goal=GOALS, used=st.integers(1, 23))
@settings(max_examples=60, deadline=None)
def test_a_placed_replica_is_not_moved_by_memory_load_or_nodes_that_join(policy, nodes, goal, used):
    fleet = Fleet(*nodes[:2], rules=RULES[policy])
    fleet.run(goal, steps=10)
    before = {(a.spec.model_uid, a.replica_id): a for a in fleet.assignments() if a.wanted == RUN}
    fleet.nodes |= {each.node_id: each for each in nodes[2:]}
    for name in fleet.nodes:
        using(fleet, name, used)
    fleet.run(goal, steps=5)
    after = {(a.spec.model_uid, a.replica_id): a for a in fleet.assignments()}
    assert before.items() <= after.items()
