"""Healing and changes as properties: many random histories of a fleet, with what may never happen checked after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nebula_core.scheduler.healing import MASS_LEAST, MASS_SHARE
from nebula_core.scheduler.reconcile import Rules, reconcile
from nebula_core.scheduler.world import Memory
from nebula_core.testing.fleet import STEP_S, Fleet, answer, as_goals
from nebula_core.types import READY, RUN, STARTING, UNHEALTHY, Assignment, GpuStatus, NodeStatus, ReplicaSpec

LOST_AFTER_S = 2 * STEP_S
LEASE_S = 3 * STEP_S
BAD = {"variant": 2}
"""Arguments with which no engine ever starts."""

Specs = tuple[ReplicaSpec, ...]


def specs(uid: str, number: int, gpus: int, variant: int) -> Specs:
    return (ReplicaSpec(model_uid=uid, engine="fake", gpus=gpus, engine_args={"variant": variant}),) * number


def node(name: str, gpus: int) -> NodeStatus:
    return NodeStatus(node_id=name, address="", engines=("fake",), gpus=tuple(GpuStatus(index=i) for i in range(gpus)))


class World(Fleet):
    """A fleet to which things happen."""

    def __init__(self, *nodes: NodeStatus) -> None:
        super().__init__(*nodes, rules=Rules(lost_after_s=LOST_AFTER_S))
        self.away: dict[str, NodeStatus] = {}
        self.wanted: dict[str, Specs] = {}
        self.asked_for_fewer: set[str] = set()

    def names(self) -> list[str]:
        return sorted({*self.nodes, *self.away})

    def happen(self, event: str, number: int) -> None:
        """`number` chooses which of several."""
        names = self.names()
        name = names[number % len(names)]
        match event:
            case "work":
                self.work(READY)
            case "load":
                self.work(STARTING)
            case "wait":
                self.now += STEP_S
            case "die" if name in self.nodes:
                self.away[name] = self.nodes.pop(name)
            case "die together":
                for each in names[number % len(names) :]:
                    if each in self.nodes:
                        self.away[each] = self.nodes.pop(each)
            case "return" if name in self.away:
                self.nodes[name] = self.away.pop(name)
            case "reboot" if name in self.away:
                self.endpoints = {
                    replica: msgspec.structs.replace(each, state=STARTING, incarnation=each.incarnation + 1)
                    if each.node_id == name
                    else each
                    for replica, each in self.endpoints.items()
                }
                self.nodes[name] = self.away.pop(name)
            case "all return":
                self.nodes |= self.away
                self.away.clear()
            case "cordon" | "drain" | "forget":
                self.ask(name, cordoned=True, drained=event == "drain", given_up=event == "forget")
            case "uncordon":
                self.node_requests.pop(name, None)
            case "ecc" | "off the bus" if self.nodes.get(name) and self.nodes[name].gpus:
                bad, *rest = self.nodes[name].gpus
                gpus = (*([msgspec.structs.replace(bad, ecc_errors=1)] if event == "ecc" else []), *rest)
                self.nodes[name] = msgspec.structs.replace(self.nodes[name], gpus=gpus)
            case "crash" if self.endpoints:
                replica = sorted(self.endpoints)[number % len(self.endpoints)]
                self.endpoints[replica] = msgspec.structs.replace(self.endpoints[replica], state=UNHEALTHY, reason="it crashed")
            case "new leader":
                self.memory = Memory(lose_from=self.now + LEASE_S)

    def work(self, state: str) -> None:
        """Nodes do as they are told, and some arguments are wrong."""
        self.obey(state)
        for assignment in self.assignments():
            if assignment.wanted == RUN and assignment.spec.engine_args == BAD and assignment.node_id in self.nodes:
                self.endpoints[replica(assignment)] = msgspec.structs.replace(answer(assignment, UNHEALTHY), reason="no such argument")

    def settle(self, steps: int = 60) -> None:
        """The world stands still, and everybody does his work."""
        for _ in range(steps):
            self.decide(self.wanted)
            self.work(READY)
            self.now += STEP_S


def replica(assignment: Assignment) -> tuple[str, str]:
    return assignment.spec.model_uid, assignment.replica_id


EVENTS = (
    "work", "work", "work", "load", "wait", "wait", "die", "die together", "return", "reboot", "all return", "cordon", "drain", "forget",
    "uncordon", "ecc", "off the bus", "crash", "new leader",
)  # fmt: skip
happenings = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 20)), max_size=14)
requests = st.dictionaries(st.sampled_from("mn"), st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1).map(
    lambda made: {uid: specs(uid, *numbers) for uid, numbers in made.items()}
)
histories = st.lists(st.tuples(requests, happenings), min_size=1, max_size=4)
fleets = st.lists(st.integers(0, 3), min_size=2, max_size=7).map(lambda gpus: [node(f"n{i}", count) for i, count in enumerate(gpus)])


def play(world: World, history, check=lambda *_: None) -> None:
    for wanted, happened in history:
        world.asked_for_fewer = {uid for uid, before in world.wanted.items() if len(wanted.get(uid, ())) < len(before)}
        world.wanted = wanted
        for event, number in [("", 0), *happened]:
            world.happen(event, number)
            before = world.assignments()
            world.decide(wanted)
            check(world, before)


# --- after every step -------------------------------------------------------------------------------------------------------------


def check_gpus(world: World, _) -> None:
    given = Counter((a.node_id, index) for a in world.assignments() for index in a.gpu_indexes)
    assert max(given.values(), default=1) == 1
    for plan in world.plans.values():
        assert len({a.replica_id for a in plan.assignments}) == len(plan.assignments)


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_no_gpu_and_no_id_is_given_twice(nodes, history):
    play(World(*nodes), history, check_gpus)


def added(world: World, before: list[Assignment]) -> list[Assignment]:
    known = {(replica(a), a.assignment_version) for a in before}
    return [a for a in world.assignments() if (replica(a), a.assignment_version) not in known and a.wanted == RUN]


def check_places(world: World, before: list[Assignment]) -> None:
    for new in added(world, before):
        request = world.node_requests.get(new.node_id)
        assert new.node_id in world.nodes
        assert request is None or not (request.cordoned or request.drained or request.given_up)
        sound = {gpu.index for gpu in world.nodes[new.node_id].gpus if not gpu.ecc_errors}
        assert sound.issuperset(new.gpu_indexes)


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_nothing_new_goes_where_it_may_not(nodes, history):
    play(World(*nodes), history, check_places)


def check_service(world: World, before: list[Assignment]) -> None:
    """What served and ends now has been replaced by what is ready, or makes room for what fits nowhere; or fewer were asked for."""
    seen, after = world.observed(), {replica(a): a.wanted for a in world.assignments()}
    for uid in {a.spec.model_uid for a in before} - world.asked_for_fewer:
        running = [a for a in before if a.wanted == RUN and a.spec.model_uid == uid]
        serving = [a for a in running if seen.serves(a)]
        ended = [a for a in serving if after.get(replica(a)) != RUN]
        left = [a for a in serving if after.get(replica(a)) == RUN]
        wanted = len(world.wanted.get(uid, ()))
        makes_room = len(ended) == 1 and world.statuses[uid].placed < wanted and ended[0].node_id in world.nodes
        assert not ended or len(left) >= wanted or makes_room or makes_room_of_two(world, uid, ended)


def makes_room_of_two(world: World, uid: str, ended: list[Assignment]) -> bool:
    """Two replicas of one GPU each make room for one of two."""
    status = world.statuses[uid]
    return len({a.node_id for a in ended}) == 1 and status.placed < status.wanted and len(ended) <= world.wanted[uid][0].gpus


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_what_serves_is_not_ended_before_as_many_serve_in_its_stead(nodes, history):
    play(World(*nodes), history, check_service)


def check_freeze(world: World, before: list[Assignment]) -> None:
    given_up = {name for name, request in world.node_requests.items() if request.given_up}
    missing = {a.node_id for a in before if a.wanted == RUN} - world.nodes.keys() - given_up
    if len(missing) < MASS_LEAST or len(missing) <= MASS_SHARE * (len(missing) + len(world.nodes)):
        return
    on_missing = {replica(a): a for a in before if a.node_id in missing and a.wanted == RUN}
    wanted = {uid: each[0] if each else None for uid, each in world.wanted.items()}
    for new in added(world, before):
        old = on_missing.get((new.spec.model_uid, new.replaces))
        assert old is None or old.spec != wanted[new.spec.model_uid], "only what its operator has changed"
    for uid in {uid for uid, _ in on_missing}:
        assert (
            any("nodes are gone together" in reason for reason in world.statuses[uid].reasons)
            or uid not in world.wanted
            or not any(a.node_id in missing and a.wanted == RUN for a in world.plans[uid].assignments)
        )


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_while_too_many_nodes_are_gone_nothing_on_them_is_replaced_and_the_status_says_so(nodes, history):
    play(World(*nodes), history, check_freeze)


def check_rollout(world: World, before: list[Assignment]) -> None:
    """At most one replacement of a replica that is well where it is, and none while an earlier one has not become ready."""
    seen = world.observed()
    olds = {replica(a): a for a in before}
    by_model = Counter[str]()
    for new in added(world, before):
        old = olds.get((new.spec.model_uid, new.replaces))
        if old is None or not seen.ready(old) or must_leave(world, old):
            continue
        by_model[new.spec.model_uid] += 1
        waits = [a for a in before if a.wanted == RUN and a.spec == new.spec and a.replaces and not seen.ready(a)]
        still = [a for a in waits if world.on(a.spec.model_uid).get(a.replica_id) and not must_leave(world, a)]
        assert not still
    assert max(by_model.values(), default=1) == 1


def must_leave(world: World, assignment: Assignment) -> bool:
    request, at = world.node_requests.get(assignment.node_id), world.nodes.get(assignment.node_id)
    if at is None:
        return True
    sound = {gpu.index for gpu in at.gpus if not gpu.ecc_errors}
    return bool(request and request.drained) or not sound.issuperset(assignment.gpu_indexes)


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_a_change_never_touches_two_replicas_that_are_well_at_a_time(nodes, history):
    play(World(*nodes), history, check_rollout)


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_another_pass_decides_nothing_and_order_does_not_matter(nodes, history):
    world = World(*nodes)
    play(world, history)
    world.decide(world.wanted)  # what ends on a node that was given up leaves its plan in the next pass
    again = world.decide(world.wanted)
    assert (again.plans, again.statuses) == ({}, {})
    seen = world.observed()
    turned = type(seen)(**{name: dict(reversed(getattr(seen, name).items())) for name in seen.__dataclass_fields__})
    goals = as_goals(world.wanted)
    one = reconcile(goals, seen, Memory(), world.now)
    assert one == reconcile(dict(reversed(goals.items())), turned, Memory(), world.now)


# --- once the world stands still --------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories)
def test_a_world_that_stands_still_comes_to_rest_and_says_what_is_missing(nodes, history):
    world = World(*nodes)
    play(world, history)
    world.settle()
    again = world.decide(world.wanted)
    assert (again.plans, again.statuses) == ({}, {})
    for uid, each in world.wanted.items():
        status = world.statuses[uid]
        assert status.wanted == len(each)
        assert status.reasons or status.placed == status.wanted


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, history=histories, good=requests.map(lambda made: {uid: specs(uid, len(each), 0, 1) for uid, each in made.items()}))
def test_where_there_is_room_every_model_gets_what_it_is_asked_for_whatever_was_before(nodes, history, good):
    world = World(*nodes)
    play(world, history)
    world.happen("all return", 0)
    world.node_requests.clear()
    world.wanted = good
    world.settle()
    assert set(world.plans) <= set(good)
    for uid, each in good.items():
        running = list(world.plans[uid].assignments) if each else []
        assert [a.spec for a in running] == list(each)
        assert all(world.observed().ready(a) and not a.replaces for a in running)
        assert not world.statuses[uid].reasons


@settings(max_examples=100, deadline=None)
@given(nodes=fleets, number=st.integers(1, 4), dead=st.integers(0, 6))
def test_without_the_dead_nodes_the_others_serve_what_was_asked_for(nodes: list[NodeStatus], number: int, dead: int):
    world = World(*nodes)
    world.wanted = {"m": specs("m", number, 0, 1)}
    world.settle(4)
    name = nodes[dead % len(nodes)].node_id
    world.happen("die", dead % len(nodes))
    world.settle(12)
    running: Mapping[str, str] = world.on()
    assert len(running) == number
    assert name not in running.values()
