"""What every routing strategy must do, whatever it goes by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import msgspec

from nebula_core.interfaces import Strategy
from nebula_core.router.candidate import Candidate
from nebula_core.router.events import RouteEvent, RouteRequest
from nebula_core.router.routes import Route
from nebula_core.types import EndpointStats


def make_candidates(count: int) -> list[Candidate]:
    """Idle replicas of a model `m`, without any stats."""
    return [
        Candidate(Route(model_uid="m", replica_id=str(i), assignment_version="a", incarnation=1, url=f"http://127.0.0.1:{18000 + i}"))
        for i in range(count)
    ]


def picked_by_models_in_turn(strategy: Strategy, sizes: Sequence[int], stats: EndpointStats | None = None) -> Counter[tuple[int, str]]:
    """How often each replica was picked, by (model, replica), where models of these sizes get short requests one after the other.

    All replicas are idle and report the same stats. Whoever lets equals take turns picks each of a model's replicas equally often.
    """
    fleets, picked = [make_candidates(size) for size in sizes], Counter[tuple[int, str]]()
    for candidate in (candidate for fleet in fleets for candidate in fleet):
        candidate.set_stats(stats or EndpointStats())
    for _ in range(12):
        for number, fleet in enumerate(fleets):
            pick = strategy.select(RouteRequest("r", str(number), "/v1/completions", b"{}"), fleet)
            assert pick is not None
            picked[number, pick.candidate.route.replica_id] += 1
    return picked


class StrategyContract(ABC):
    """Inherit it in a test class and make the strategy under test."""

    @abstractmethod
    def make_strategy(self) -> Strategy:
        """A fresh strategy with its default settings."""

    def test_it_picks_one_of_the_candidates_or_leaves_it_to_the_fallback(self) -> None:
        """With one replica, many, and bodies of any kind."""
        strategy = self.make_strategy()
        for count in (1, 2, 7):
            candidates = make_candidates(count)
            for body in (b"{}", b"", b'{"messages":[{"role":"user","content":"hi"}]}', b"\xff\x00 not JSON"):
                pick = strategy.select(RouteRequest("r", "m", "/v1/chat/completions", body), candidates)
                assert pick is None or pick.candidate in candidates

    def test_it_gives_a_short_constant_reason(self) -> None:
        """Reasons become label values."""
        strategy, candidates = self.make_strategy(), make_candidates(3)
        picks = [strategy.select(RouteRequest(f"r{i}", "m", "/v1/completions", b"{}"), candidates) for i in range(50)]
        reasons = {pick.reason for pick in picks if pick}
        assert all(reason.isidentifier() for reason in reasons)
        assert len(reasons) <= 5

    def test_it_copes_with_signals_that_are_unknown(self) -> None:
        """Stats may be there for some replicas only."""
        strategy, candidates = self.make_strategy(), make_candidates(3)
        candidates[0].set_stats(EndpointStats(pending=1, running=1, kv_cache_usage=0.5))
        pick = strategy.select(RouteRequest("r", "m", "/v1/completions", b"{}"), candidates)
        assert pick is None or pick.candidate in candidates

    def test_without_its_signals_it_hands_over(self) -> None:
        """What it declares is what it goes by: `nebula status` tells operators by that who decides."""
        strategy, request = self.make_strategy(), RouteRequest("r", "m", "/v1/completions", b"{}")
        assert set(strategy.signals) <= set(EndpointStats.__struct_fields__)
        if strategy.signals:
            assert strategy.select(request, make_candidates(3)) is None
        for signal in strategy.signals if strategy.signals_of == "every" else ():
            candidates = make_candidates(3)
            candidates[0].set_stats(msgspec.convert({signal: 1}, EndpointStats))
            assert strategy.select(request, candidates) is None

    def test_it_explains_its_own_decisions_alone(self) -> None:
        """Each as it was made; of requests that it never saw there are none."""
        strategy, candidates = self.make_strategy(), make_candidates(3)
        pick = strategy.select(RouteRequest("r", "m", "/v1/completions", b"{}"), candidates)
        told = strategy.explain("r")
        assert len(told) == (pick is not None and strategy.explains > 0)
        for decision in told:
            assert pick is not None
            assert (decision.request_id, decision.model_uid) == ("r", "m")
            assert (decision.picked, decision.reason) == (pick.candidate.route.replica_id, pick.reason)
            assert {one.replica_id for one in decision.candidates} <= {"0", "1", "2"}
            assert msgspec.json.decode(msgspec.json.encode(decision), type=type(decision)) == decision
        assert not strategy.explain("unseen")

    def test_it_does_not_change_the_candidates(self) -> None:
        """Charging is the router's business."""
        strategy, candidates = self.make_strategy(), make_candidates(3)
        order = list(candidates)
        strategy.select(RouteRequest("r", "m", "/v1/completions", b"{}"), candidates)
        assert candidates == order
        assert [candidate.load for candidate in candidates] == [0, 0, 0]

    def test_it_survives_events_in_any_order(self) -> None:
        """Events of other gateways arrive late, twice, and for replicas it never saw."""
        strategy = self.make_strategy()
        for kind in ("finished", "gone", "first_token", "charged", "failed", "charged"):
            for replica_id in ("0", "unseen"):
                event = RouteEvent(kind=kind, model_uid="m", replica_id=replica_id, incarnation=1, request_id="r", at=1.0)
                strategy.observe(event)
        candidates = make_candidates(2)
        pick = strategy.select(RouteRequest("r2", "m", "/v1/completions", b"{}"), candidates)
        assert pick is None or pick.candidate in candidates
