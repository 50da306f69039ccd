"""What every scaling policy must do, whatever it goes by; and signals to try one with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebula_core.interfaces import Proposal, ReplicaSignals, ScalingPolicy, ScalingSignals
from nebula_core.testing.scaling_loop import ClosedLoop
from nebula_core.types import EndpointStats, ModelRequest

LOOK_S = 10.0
MOST_MEMORY = 8192
"""Bytes of JSON that the core keeps for a policy, per model."""

AMOUNTS = st.none() | st.integers(0, 500).map(float)
STATS = st.builds(
    EndpointStats, pending=AMOUNTS, running=AMOUNTS, kv_cache_usage=st.none() | st.floats(0, 1), generated_tokens_total=AMOUNTS
)
REPLICAS = st.builds(ReplicaSignals, replica_id=st.just("0"), ready=st.just(True), stats=st.none() | STATS) | st.builds(
    ReplicaSignals, replica_id=st.just("0"), starting_s=st.none() | st.floats(0, 1000)
)
SIGNALS = st.builds(
    ScalingSignals,
    model_uid=st.just("m"),
    wanted=st.integers(0, 12),
    replicas=st.lists(REPLICAS, max_size=8).map(tuple),
    in_flight=AMOUNTS,
    waiting=AMOUNTS,
    arrivals_per_s=st.none() | st.floats(0, 1000),
    first_token_s=st.none() | st.floats(0, 600),
    first_token_target_s=st.none() | st.floats(0.01, 60),
    boot_s=st.none() | st.floats(0, 1000),
    since_change_s=st.none() | st.floats(0, 10_000),
)
HISTORIES = st.lists(st.tuples(st.floats(0, 120), SIGNALS), min_size=1, max_size=12)


def ready(replica_id: str, *, kv: float | None, running: float | None, pending: float | None) -> ReplicaSignals:
    """A replica that serves, and what its engine says."""
    stats = EndpointStats(kv_cache_usage=kv, running=running, pending=pending)
    return ReplicaSignals(replica_id=replica_id, ready=True, stats=stats)


def ask(policy: ScalingPolicy, signals: ScalingSignals, memory: dict[str, Any], now: float) -> Proposal:
    """As the core asks: what is remembered has been in the store meanwhile."""
    proposal = policy.propose(signals, memory, now)
    return msgspec.structs.replace(proposal, memory=msgspec.json.decode(msgspec.json.encode(proposal.memory)))


def ask_often(policy: ScalingPolicy, history: Sequence[tuple[float, ScalingSignals]]) -> tuple[list[Proposal], float]:
    """Each `(seconds that pass, signals)` in turn; returns the proposals, and the time of the last."""
    proposals, memory, now = [], dict[str, Any](), 0.0
    for elapsed, signals in history:
        now += elapsed
        proposals.append(ask(policy, signals, memory, now))
        memory = proposals[-1].memory
    return proposals, now


class ScalingContract(ABC):
    """Inherit it in a test class and make the policy under test."""

    @abstractmethod
    def make_policy(self) -> ScalingPolicy:
        """A fresh policy with its default settings."""

    @given(history=HISTORIES)
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_it_says_a_number_or_none_and_why_whatever_it_is_told(self, history: list[tuple[float, ScalingSignals]]) -> None:
        """And what it remembers stays small."""
        for proposal in ask_often(self.make_policy(), history)[0]:
            assert proposal.replicas is None or proposal.replicas >= 0
            assert proposal.reason
            assert len(msgspec.json.encode(proposal.memory)) <= MOST_MEMORY

    @given(history=HISTORIES)
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_all_that_it_remembers_is_what_it_was_handed(self, history: list[tuple[float, ScalingSignals]]) -> None:
        """A new leader has a new policy, and the memory that the old one's left in the store."""
        policy = self.make_policy()
        proposals, memory, now = ask_often(policy, history)[0], dict[str, Any](), 0.0
        for (elapsed, signals), proposal in zip(history, proposals, strict=True):
            now += elapsed
            assert ask(self.make_policy(), signals, memory, now) == proposal
            memory = proposal.memory

    @given(history=HISTORIES, last=SIGNALS, which=st.integers(0, 7))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_what_is_not_known_takes_no_replica_away(
        self, history: list[tuple[float, ScalingSignals]], last: ScalingSignals, which: int
    ) -> None:
        """One ready replica that tells nothing is enough."""
        silent = ReplicaSignals(replica_id="silent", ready=True)
        replicas = (*last.replicas[:which], silent, *last.replicas[which:])
        last = msgspec.structs.replace(last, replicas=replicas, in_flight=None, waiting=None, arrivals_per_s=None)
        proposal = ask_often(self.make_policy(), [*history, (LOOK_S, last)])[0][-1]
        assert proposal.replicas is None or proposal.replicas >= last.wanted

    def test_replicas_that_start_are_not_asked_for_again(self) -> None:
        """Ten minutes of the same overload, in which nothing gets ready: AIBrix issue 2670 is the cascade that this must not be."""
        policy, memory, wanted, asked = self.make_policy(), dict[str, Any](), 4, []
        for look in range(60):
            serving = tuple(ready(str(each), kv=0.9, running=36.0, pending=0.0) for each in range(4))
            coming = tuple(ReplicaSignals(replica_id=str(each), starting_s=10.0) for each in range(4, wanted))
            signals = ScalingSignals(model_uid="m", wanted=wanted, replicas=serving + coming, in_flight=144.0, boot_s=600.0)
            proposal = ask(policy, signals, memory, look * LOOK_S)
            memory, wanted = proposal.memory, max(wanted, proposal.replicas or 0)
            asked.append(wanted)
        assert asked[-1] <= 8
        assert asked[20:] == [asked[-1]] * 40

    def test_a_booting_replica_is_no_idle_one(self) -> None:
        """It has no load to tell of, which must not take it, or another, away."""
        serving = ready("0", kv=0.7, running=30.0, pending=1.0)
        signals = ScalingSignals(
            model_uid="m", wanted=2, replicas=(serving, ReplicaSignals(replica_id="1", starting_s=1.0)), in_flight=31.0, waiting=0.0
        )  # fmt: skip
        proposals, _ = ask_often(self.make_policy(), [(LOOK_S, signals)] * 60)
        assert all(proposal.replicas is None or proposal.replicas >= 2 for proposal in proposals)

    def test_a_model_at_zero_that_nobody_asks_for_stays_there(self) -> None:
        """It has no engine to tell its load, and the core wakes it when somebody comes."""
        idle = ready("0", kv=0.0, running=0.0, pending=0.0)
        served = ScalingSignals(model_uid="m", wanted=1, replicas=(idle,), in_flight=0.0, waiting=0.0, arrivals_per_s=0.0)
        for signals in (served, msgspec.structs.replace(served, waiting=None, arrivals_per_s=None)):
            asleep = msgspec.structs.replace(signals, wanted=0, replicas=())
            proposals, _ = ask_often(self.make_policy(), [*[(LOOK_S, signals)] * 60, *[(LOOK_S, asleep)] * 60])
            assert proposals[59].replicas == 0
            assert {proposal.replicas for proposal in proposals[60:]} <= {0, None}

    def test_an_idle_model_goes_to_zero_and_one_burst_of_requests_brings_it_back_once(self) -> None:
        """With the autoscaler that asks it in production, in an hour of virtual time."""
        request = ModelRequest(model_uid="m", engine="fake", min_replicas=0, max_replicas=4)
        model = ClosedLoop(policy=self.make_policy(), request=request, rate=lambda now: 0.1 * (now < 600 or 3000 <= now < 3060))
        model.start(1)
        model.run(4000)
        assert (model.numbers[0], model.numbers[299], model.numbers[310], model.numbers[-1]) == (1, 0, 1, 0)
        assert model.changes() == 3

    def test_what_a_stranger_remembered_is_forgotten(self) -> None:
        """Another policy's memory, or that of a newer version."""
        signals = ScalingSignals(model_uid="m", wanted=1, replicas=(ready("0", kv=0.1, running=1.0, pending=0.0),), in_flight=1.0)
        strange: list[dict[str, Any]] = [{"wanted": "many"}, {"windows": [1, 2]}, {"version": 9, "slots": {}}]
        for memory in strange:
            assert ask(self.make_policy(), signals, memory, 0.0) == ask(self.make_policy(), signals, {}, 0.0)
