import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core import Candidate, Explanation, Pick, RouteEvent, RouteRequest, Strategy
from nebula_core.metrics import Metrics
from nebula_core.router.events import Lost
from nebula_core.router.router import Router
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.router.table import RoutingTable

REQUEST = RouteRequest("r", "m", "/v1/chat/completions", b"{}")


class Fewest(Strategy):
    def __init__(self) -> None:
        self.seen: list[RouteEvent] = []

    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        return Pick(min(candidates, key=lambda candidate: candidate.load), "fewest")

    def observe(self, event: RouteEvent) -> None:
        self.seen.append(event)


class Undecided(Strategy):
    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        return None


class Broken(Strategy):
    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        raise ZeroDivisionError

    def observe(self, event: RouteEvent) -> None:
        raise ZeroDivisionError

    def explain(self, request_id: str) -> Sequence[Explanation]:
        raise ZeroDivisionError


class Careless(Strategy):
    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        return candidates[0]  # which is no Pick

    def explain(self, request_id: str) -> Sequence[Explanation]:
        return [Explanation(request_id=request_id, model_uid="m", at=1.0, picked=0, reason="careless")]  # an id is no number


class Talkative(Fewest):
    def __init__(self, *decided_at: float) -> None:
        super().__init__()
        self.decided_at = decided_at

    def explain(self, request_id: str) -> Sequence[Explanation]:
        return [Explanation(request_id=request_id, model_uid="m", at=at, picked="0", reason="fewest") for at in self.decided_at]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def route(replica_id: str, incarnation: int = 1) -> Route:
    return Route(
        model_uid="m", replica_id=replica_id, assignment_version="a", incarnation=incarnation, url=f"http://127.0.0.1:{replica_id}"
    )


def make(replicas: int = 2, default: str = "fewest", fallback: str = "fewest") -> tuple[Router, Clock, Fewest]:
    table, clock, fewest = RoutingTable(), Clock(), Fewest()
    table.update([ModelRoute(model_uid="m", aliases=("alias",), routes=tuple(route(str(i)) for i in range(replicas)))])
    strategies = {"fewest": fewest, "undecided": Undecided(), "broken": Broken(), "careless": Careless()}
    logger = logging.getLogger("test")
    return Router(table, strategies, default=default, fallback=fallback, clock=clock, metrics=Metrics(), logger=logger), clock, fewest


def loads(router: Router) -> list[int]:
    return [candidate.charged for candidate in router.table.models["m"].candidates]


def test_a_burst_spreads_because_picking_charges():
    router, *_ = make(replicas=4)
    for _ in range(8):
        assert router.pick(router.table.models["m"], REQUEST)
    assert loads(router) == [2, 2, 2, 2]


def test_a_model_without_replicas_has_no_pick():
    router, *_ = make(replicas=0)
    assert router.pick(router.table.models["m"], REQUEST) is None


def test_a_tried_replica_is_not_picked_again():
    router, *_ = make(replicas=2)
    model = router.table.models["m"]
    first = router.pick(model, REQUEST)
    assert first
    first.fail("refused")
    second = router.pick(model, REQUEST, tried=[first.candidate])
    assert second
    assert second.candidate is not first.candidate
    assert router.pick(model, REQUEST, tried=[first.candidate, second.candidate]) is None


def test_a_replica_that_refused_is_avoided_for_a_while():
    router, clock, _ = make(replicas=2)
    model = router.table.models["m"]
    refused = router.pick(model, REQUEST)
    assert refused
    refused.fail("refused")
    picked = {router.pick(model, REQUEST).candidate for _ in range(4)}
    assert refused.candidate not in picked
    clock.now += 60
    assert router.pick(model, REQUEST).candidate is refused.candidate


def test_the_only_replica_is_tried_even_under_suspicion():
    router, *_ = make(replicas=1)
    model = router.table.models["m"]
    router.pick(model, REQUEST).fail("refused")
    assert router.pick(model, REQUEST) is not None


def test_a_client_that_left_casts_no_suspicion():
    router, *_ = make(replicas=1)
    charge = router.pick(router.table.models["m"], REQUEST)
    charge.fail("aborted")
    assert charge.candidate.down_until == 0
    assert router.failures == []


def test_a_lost_replica_is_told_to_others_by_its_incarnation():
    router, *_ = make(replicas=1)
    charge = router.pick(router.table.models["m"], REQUEST)
    charge.fail("reset")
    assert router.failures == [Lost("m", "0", 1)]


def test_suspicion_from_elsewhere_counts_only_for_the_same_incarnation():
    router, *_ = make(replicas=1)
    [candidate] = router.table.models["m"].candidates
    router.suspect(Lost("m", "0", 7))
    assert candidate.down_until == 0
    router.suspect(Lost("m", "0", 1))
    assert candidate.down_until > 0


@pytest.mark.parametrize("default", ["undecided", "broken", "careless"])
def test_the_fallback_decides_where_the_strategy_cannot(default):
    router, *_ = make(default=default)
    assert router.pick(router.table.models["m"], REQUEST)


def test_a_request_is_routed_even_if_every_strategy_fails():
    router, *_ = make(replicas=2, default="broken", fallback="broken")
    for _ in range(4):
        assert router.pick(router.table.models["m"], REQUEST)
    assert loads(router) == [2, 2]


def test_a_model_may_have_a_strategy_of_its_own():
    router, _, fewest = make(default="broken", fallback="broken")
    router.update([ModelRoute(model_uid="m", strategy="fewest", routes=(route("0"),))])
    charge = router.pick(router.table.models["m"], REQUEST)
    assert charge
    assert fewest.seen[-1].kind == "charged"


def test_an_answer_that_comes_all_at_once_is_told_once():
    router, _, fewest = make()
    charge = router.pick(router.table.models["m"], REQUEST)
    charge.finish(whole=True)
    charge.first_token()
    charge.finish()
    assert [(event.kind, event.whole) for event in fewest.seen] == [("charged", False), ("finished", True)]
    assert loads(router) == [0, 0]


def test_strategies_observe_the_life_of_a_request():
    router, _, fewest = make(replicas=1)
    charge = router.pick(router.table.models["m"], REQUEST)
    charge.first_token()
    charge.first_token()
    charge.finish()
    charge.fail("reset")
    assert [event.kind for event in fewest.seen] == ["charged", "first_token", "finished"]


def test_a_strategy_that_no_model_uses_observes_nothing():
    router, _, fewest = make(default="undecided", fallback="undecided")
    router.pick(router.table.models["m"], REQUEST)
    assert fewest.seen == []
    router.update([ModelRoute(model_uid="other", strategy="fewest")])
    router.pick(router.table.models["m"], REQUEST)
    assert [event.kind for event in fewest.seen] == ["charged"]


def test_what_one_worker_saw_its_peer_observes_as_it_was():
    (seeing, *_), (hearing, _, fewest) = make(replicas=1), make(replicas=1)
    seeing.shared = []
    charge = seeing.pick(seeing.table.models["m"], REQUEST)
    charge.first_token()
    charge.finish()
    hearing.observe(seeing.shared)
    assert fewest.seen == seeing.shared
    assert [event.kind for event in fewest.seen] == ["charged", "first_token", "finished"]
    assert hearing.shared is None


def test_decisions_of_all_strategies_are_told_in_order_of_time_and_a_strategy_that_fails_is_left_out(caplog):
    strategies = {"a": Talkative(2.0, 4.0), "broken": Broken(), "careless": Careless(), "b": Talkative(3.0), "mute": Undecided()}
    logger = logging.getLogger("test")
    router = Router(RoutingTable(), strategies, default="a", fallback="b", clock=Clock(), metrics=Metrics(), logger=logger)
    told = [(one.at, one.strategy, one.request_id) for one in router.explain("r")]
    assert told == [(2.0, "a", "r"), (3.0, "b", "r"), (4.0, "a", "r")]
    assert [name for name in strategies if f"strategy '{name}' failed" in caplog.text] == ["broken", "careless"]


def test_a_restarted_engine_begins_without_load_and_the_old_one_is_gone():
    router, _, fewest = make(replicas=1)
    model = router.table.models["m"]
    old = router.pick(model, REQUEST)
    router.update([ModelRoute(model_uid="m", routes=(route("0", incarnation=2),))])
    assert loads(router) == [0]
    assert fewest.seen[-1].kind == "gone"
    old.finish()
    assert loads(router) == [0]
    assert old.candidate in router.touched


def test_a_replica_that_leaves_and_comes_back_still_has_its_requests():
    router, *_ = make(replicas=1)
    model = router.table.models["m"]
    charge = router.pick(model, REQUEST)
    router.table.update([ModelRoute(model_uid="m")])
    router.table.update([ModelRoute(model_uid="m", routes=(route("0"),))])
    assert loads(router) == [1]
    charge.finish()
    assert loads(router) == [0]


def test_a_whole_table_forgets_what_others_had_in_flight():
    router, *_ = make(replicas=1)
    [candidate] = router.table.models["m"].candidates
    candidate.set_charged_elsewhere(3)
    router.table.update([ModelRoute(model_uid="m", routes=(route("0"),))], whole=True)
    assert candidate.load == 0


def test_membership_changes_keep_the_load_of_replicas_that_stay():
    router, *_ = make(replicas=2)
    model = router.table.models["m"]
    router.pick(model, REQUEST)
    router.table.update([ModelRoute(model_uid="m", routes=(route("0"), route("1"), route("2")))])
    assert loads(router) == [1, 0, 0]


def test_a_whole_table_removes_what_it_does_not_name():
    router, *_ = make(replicas=1)
    gone = router.table.update([ModelRoute(model_uid="other")], whole=True)
    assert [candidate.route.model_uid for candidate in gone] == ["m"]
    assert router.table.find("m") is None
    assert router.table.find("alias") is None


def test_an_alias_never_hides_a_model_of_that_name():
    table = RoutingTable()
    table.update([ModelRoute(model_uid="a", aliases=("b",)), ModelRoute(model_uid="b")])
    assert table.find("b").model_uid == "b"


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["pick", "first_token", "finish", "refused", "reset", "timeout", "aborted"]))))
def test_charges_return_to_zero_however_requests_end(steps):
    router, *_ = make(replicas=3)
    model = router.table.models["m"]
    open_: dict[int, object] = {}
    for slot, step in steps:
        if step == "pick":
            if slot not in open_:
                open_[slot] = router.pick(model, REQUEST)
        elif charge := open_.get(slot):
            getattr(charge, step)() if step in ("first_token", "finish") else charge.fail(step)
        assert sum(loads(router)) == sum(not charge.ended for charge in open_.values())
    for charge in open_.values():
        charge.finish()
    assert loads(router) == [0, 0, 0]
