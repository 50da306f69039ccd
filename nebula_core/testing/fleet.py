"""A store, a scheduler and nodes that do what plans say, one step at a time: for tests of what the scheduler decides."""

from __future__ import annotations

from collections.abc import Mapping

from nebula_core.scheduler.reconcile import SILENCE_S, Rules, reconcile
from nebula_core.scheduler.world import Decisions, Goal, Memory, Observed, Wanted
from nebula_core.types import READY, RUN, Assignment, EndpointInfo, ModelStatus, NodeRequest, NodeStatus, PlacementPlan, ReplicaSpec

STEP_S = SILENCE_S
"""What passes between two steps of a fleet that runs: none of them finds the scheduler waiting."""

Desired = Mapping[str, Goal | tuple[ReplicaSpec, ...]]


def as_goals(desired: Desired) -> dict[str, Goal]:
    """Replicas alone need nothing of their nodes but their GPUs."""
    return {uid: Wanted(goal) if isinstance(goal, tuple) else goal for uid, goal in desired.items()}


def answer(assignment: Assignment, state: str) -> EndpointInfo:
    """What a node says of an assignment that it follows."""
    return EndpointInfo(
        model_uid=assignment.spec.model_uid,
        replica_id=assignment.replica_id,
        node_id=assignment.node_id,
        assignment_version=assignment.assignment_version,
        incarnation=1,
        engine=assignment.spec.engine,
        state=state,
    )


class Fleet:
    """Its parts may be changed between two steps, as if the world had."""

    def __init__(self, *nodes: NodeStatus, rules: Rules | None = None) -> None:
        self.plans: dict[str, PlacementPlan] = {}
        self.statuses: dict[str, ModelStatus] = {}
        self.endpoints: dict[tuple[str, str], EndpointInfo] = {}
        self.nodes = {each.node_id: each for each in nodes}
        self.node_requests: dict[str, NodeRequest] = {}
        self.memory = Memory()
        self.now = 0.0
        self._rules = rules or Rules()

    def observed(self) -> Observed:
        """What the scheduler sees."""
        return Observed(
            plans=self.plans, statuses=self.statuses, nodes=self.nodes, node_requests=self.node_requests, endpoints=self.endpoints
        )

    def ask(self, node_id: str, **request: bool) -> None:
        """What an operator asks of a node from now on: `cordoned`, `drained`, `given_up`."""
        self.node_requests[node_id] = NodeRequest(node_id=node_id, **request)

    def decide(self, desired: Desired) -> Decisions:
        """One pass of the scheduler, written to the store."""
        decisions = reconcile(as_goals(desired), self.observed(), self.memory, self.now, self._rules)
        self.memory = decisions.memory
        self.plans = {uid: plan for uid, plan in {**self.plans, **decisions.plans}.items() if plan}
        self.statuses = {uid: status for uid, status in {**self.statuses, **decisions.statuses}.items() if status}
        return decisions

    def obey(self, state: str = READY) -> None:
        """Every live node starts what runs and ends what drains."""
        for assignment in self.assignments():
            replica = (assignment.spec.model_uid, assignment.replica_id)
            if assignment.node_id not in self.nodes:
                continue
            known = self.endpoints.get(replica)
            is_its = known is not None and known.node_id == assignment.node_id
            if assignment.wanted == RUN:
                if known is None or known.state != READY or known.assignment_version != assignment.assignment_version:
                    self.endpoints[replica] = answer(assignment, state)
            elif is_its:
                del self.endpoints[replica]

    def run(self, desired: Desired, steps: int = 40) -> None:
        """So many passes, each of them obeyed."""
        for _ in range(steps):
            self.decide(desired)
            self.obey()
            self.now += STEP_S

    def assignments(self) -> list[Assignment]:
        """Those of all plans."""
        return [assignment for plan in self.plans.values() for assignment in plan.assignments]

    def on(self, model: str = "m", wanted: str = RUN) -> dict[str, str]:
        """The node of each replica of a model."""
        return {a.replica_id: a.node_id for a in self.plans[model].assignments if a.wanted == wanted}
