import json
import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_prefix import Prefix, PrefixSettings, nebula_register_strategies

from nebula_core import Context, EndpointStats, Route, RouteEvent, RouteRequest
from nebula_core.metrics import Metrics
from nebula_core.router.blocks import PrefixBlocks
from nebula_core.router.guard import Charge
from nebula_core.router.router import Router
from nebula_core.router.routes import ModelRoute
from nebula_core.router.table import RoutingTable
from nebula_core.testing.strategy import StrategyContract, make_candidates, picked_by_models_in_turn

BLOCK = 2048
SPEED = 32_000.0


class TestContract(StrategyContract):
    def make_strategy(self):
        [provider] = nebula_register_strategies()
        return provider.build(Context(logger=logging.getLogger("test")), PrefixSettings())


class World:
    """A fleet behind a real router, in virtual time. Engines compute one prompt after the other at `SPEED` bytes per second."""

    def __init__(self, replicas: int = 4, **settings) -> None:
        self.now = 1000.0
        self.metrics = Metrics()
        self.strategy = Prefix(
            Context(logger=logging.getLogger("test"), metrics=self.metrics, clock=lambda: self.now), PrefixSettings(**settings)
        )
        self.table = RoutingTable()
        self.router = Router(
            self.table,
            {"prefix": self.strategy},
            default="prefix",
            fallback="prefix",
            clock=lambda: self.now,
            metrics=self.metrics,
            logger=logging.getLogger("test"),
        )
        self.count = 0
        self.set_replicas(dict.fromkeys(map(str, range(replicas)), 1))

    def set_replicas(self, incarnations: dict[str, int]) -> None:
        routes = [
            Route(model_uid="m", replica_id=name, assignment_version="a", incarnation=incarnation, url="")
            for name, incarnation in incarnations.items()
        ]
        self.router.update([ModelRoute(model_uid="m", routes=tuple(routes))])

    def send(self, *prompt: int, streamed: bool = True) -> Charge:
        """A request whose prompt has these blocks, and a tail that is nobody's."""
        self.count += 1
        blocks = PrefixBlocks(prompt, (BLOCK,) * len(prompt), len(prompt) * BLOCK + 100, streamed)
        charge = self.router.pick(self.table.models["m"], RouteRequest(f"r{self.count}", "m", "", b"", blocks))
        assert charge is not None
        return charge

    def answer(self, charge: Charge, after: float = 0.0) -> str:
        """It is answered in full, `after` seconds from now. Returns where it was."""
        self.now += after
        charge.first_token()
        charge.finish()
        return name(charge)

    def answer_whole(self, charge: Charge, after: float) -> str:
        """The same, and all at once."""
        self.now += after
        charge.finish(whole=True)
        return name(charge)

    def value(self, metric: str) -> dict[tuple[str, ...], float]:
        [family] = [family for family in self.metrics.snapshot() if family.name == metric]
        return {sample.labels: sample.value for sample in family.samples}


def name(charge: Charge) -> str:
    return charge.candidate.route.replica_id


def conversation(number: int, turns: int) -> list[int]:
    """All share block 0, as a system prompt."""
    return [0, *range(number * 1000, number * 1000 + turns)]


def test_a_conversation_stays_where_it_began():
    world = World()
    homes = {number: world.answer(world.send(*conversation(number, 5)), 0.3) for number in range(1, 20)}
    for turns in range(6, 12):
        for number, home in homes.items():
            assert world.answer(world.send(*conversation(number, turns)), 0.1) == home


def test_many_prefixes_spread_over_an_idle_fleet():
    world = World(4)
    homes = Counter(world.answer(world.send(*range(number * 100, number * 100 + 5)), 0.32) for number in range(1, 400))
    assert len(homes) == 4
    assert max(homes.values()) < 2 * min(homes.values())


def test_a_shared_system_prompt_does_not_draw_everybody_to_one_replica():
    world = World(8)
    world.answer(world.send(0), 0.1)
    picked = Counter(name(world.send(*conversation(number, 10))) for number in range(1, 65))
    assert len(picked) == 8
    assert max(picked.values()) <= 12


def test_a_crowd_with_one_prefix_spills_over_when_its_home_is_busy():
    world = World(4)
    home = world.answer(world.send(*range(20)), 1.3)
    picked = Counter(name(world.send(*range(20), *range(number * 100, number * 100 + 10))) for number in range(1, 60))
    assert picked[home] == max(picked.values())
    assert len(picked) == 4


def test_work_elsewhere_does_not_break_affinity():
    world = World(4)
    home = world.answer(world.send(*range(50)), 3)
    others = [world.send(*range(number * 100, number * 100 + 10)) for number in range(1, 12)]
    assert {name(charge) for charge in others} - {home}
    assert name(world.send(*range(51))) == home


def test_no_replica_starves():
    world = World(8)
    picked = Counter()
    for number in range(1, 400):
        charge = world.send(*conversation(number, 8))
        picked[name(charge)] += 1
        world.answer(charge, 0.05)
    assert min(picked.values()) >= 10


def test_siblings_of_an_unseen_prefix_meet_though_their_gateways_do_not_talk():
    one, other = World(), World()
    for number in range(1, 30):
        first = range(number * 100, number * 100 + 5)
        assert one.answer(one.send(*first), 0.3) == other.answer(other.send(*first[:3], -number, -number - 1000), 0.3)


def test_requests_that_only_the_load_tells_of_count_too():
    world = World(2)
    home = world.answer(world.send(*range(3)), 0.2)
    world.table.replica("m", home).set_charged_elsewhere(50)
    assert name(world.send(*range(3))) != home


def test_gateways_that_exchange_events_know_each_others_caches():
    one, other = World(), World()
    events: list[RouteEvent] = []
    observe = one.strategy.observe
    one.strategy.observe = lambda event: (events.append(event), observe(event))
    home = one.answer(one.send(*range(40)), 2)
    for event in events:
        other.now = event.at
        other.strategy.observe(event)
    assert name(other.send(*range(41))) == home
    assert other.value("nebula_strategy_prefix_decision_total") == {("prefix_hit",): 1}


def test_what_others_tell_at_once_teaches_how_long_it_really_took():
    one, other = World(1), World(1)
    events: list[RouteEvent] = []
    observe = one.strategy.observe
    one.strategy.observe = lambda event: (events.append(event), observe(event))
    for number in range(1, 30):
        one.answer(one.send(*range(number * 100, number * 100 + 10)), 7.0)
        other.now = one.now + 0.05
        other.router.observe(events)
        events.clear()
    [decision] = other.strategy.explain(other.send(*range(5000, 5010)).request_id)
    assert decision.candidates[0].figures["prefill_s"] == pytest.approx(7.0, rel=0.05)


def test_a_new_incarnation_holds_nothing():
    world = World(2)
    home = world.answer(world.send(*range(40)), 2)
    world.set_replicas({home: 2, "9": 1})
    world.send(*range(40))
    assert world.value("nebula_strategy_prefix_decision_total") == {("prefix_new",): 2}


def test_late_news_of_an_earlier_incarnation_is_no_news():
    world = World(2)
    world.set_replicas({"0": 5, "1": 1})
    world.send(1)
    late = PrefixBlocks((7, 8), (BLOCK,) * 2, 2 * BLOCK)
    for kind in ("charged", "first_token", "gone"):
        world.strategy.observe(
            RouteEvent(kind=kind, model_uid="m", replica_id="0", incarnation=4, request_id="late", at=0.0, prefix_blocks=late)
        )
    world.send(7, 8)
    assert world.value("nebula_strategy_prefix_decision_total") == {("prefix_new",): 2}


def test_a_replica_that_left_is_forgotten():
    world = World(2)
    world.answer(world.send(*range(40)), 2)
    world.set_replicas({})
    assert not world.strategy._fleets


def test_a_dispatch_that_failed_is_undone():
    world = World(2)
    first = world.send(*range(40))
    first.fail("refused")
    world.now += 60
    second = world.send(*range(40))
    assert world.value("nebula_strategy_prefix_decision_total") == {("prefix_new",): 2}
    assert world.strategy.explain(second.request_id)[0].candidates[0].figures["wait_s"] == 0


def test_what_two_requests_shared_is_believed_again_when_one_failed_and_the_other_answered():
    world = World(1)
    failing, sibling = world.send(*range(10)), world.send(*range(9), 99)
    failing.fail("aborted")
    world.answer(sibling, 1)
    [decision] = world.strategy.explain(world.send(*range(9), 99).request_id)
    assert decision.candidates[0].figures["cached_bytes"] == 10 * BLOCK


def test_a_request_that_is_heard_of_after_its_replica_left_brings_nothing_back():
    world = World(2)
    world.set_replicas({"1": 1})
    blocks = PrefixBlocks((1, 2), (BLOCK,) * 2, 2 * BLOCK)
    late = [
        RouteEvent(kind="charged", model_uid=uid, replica_id="0", incarnation=1, request_id=uid, at=world.now, prefix_blocks=blocks)
        for uid in ("m", "unloaded")
    ]
    world.router.observe(late)
    [decision] = world.strategy.explain(world.send(1, 2).request_id)
    assert (decision.reason, len(decision.candidates)) == ("prefix_new", 1)


def test_short_prompts_take_turns_on_an_idle_fleet():
    assert set(picked_by_models_in_turn(World(1).strategy, (2, 3)).values()) == {6, 4}


def test_a_failure_after_the_first_token_leaves_the_prompt_cached():
    world = World(2)
    charge = world.send(*range(40))
    world.now += 2
    charge.first_token()
    charge.fail("reset")
    world.now += 60
    assert name(world.send(*range(40))) == name(charge)


def test_what_a_failed_sibling_took_back_is_believed_again_at_the_first_token():
    world = World(1)
    failing, sibling = world.send(*range(10)), world.send(*range(10))
    failing.fail("aborted")
    world.answer(sibling, 1)
    assert world.strategy.explain(world.send(*range(10)).request_id)[0].candidates[0].figures["cached_bytes"] == 10 * BLOCK


def test_a_cache_is_as_large_as_its_engine_says():
    world = World(1, bytes_per_token=4, kv_capacity_tokens=1_000_000)
    world.table.replica("m", "0").set_stats(EndpointStats(kv_capacity_tokens=5 * BLOCK // 4))
    world.answer(world.send(*range(10)), 1)
    assert world.strategy.explain(world.send(*range(10)).request_id)[0].candidates[0].figures["cached_bytes"] == 5 * BLOCK


def test_distinct_prompts_without_end_do_not_grow_it():
    world = World(4, kv_capacity_tokens=20 * BLOCK // 4, decisions=16)
    for number in range(3000):
        world.answer(world.send(*range(number * 100, number * 100 + 30)), 0.01)
    fleet = world.strategy._fleets["m"]
    assert len(fleet.index) <= 4 * 20
    assert all(replica.in_flight == 0 and not replica._waiting and not replica._decoding for replica in fleet.replicas.values())


def test_memory_does_not_grow_with_the_fleet():
    for replicas in (2, 10):
        world = World(replicas, kv_capacity_tokens=1_000_000_000, max_blocks=200)
        for number in range(300):
            world.answer(world.send(*range(number * 100, number * 100 + 10)), 0.3)
        index = world.strategy._fleets["m"].index
        assert max(len(index.cache(slot).blocks) for slot in range(replicas)) == 200 // replicas


def test_whole_answers_do_not_pass_for_slow_prompts_where_others_are_streamed():
    world = World(1)
    world.answer(world.send(1), 0.1)
    for _ in range(20):
        world.answer(world.send(1, streamed=False), 30)
    [decision] = world.strategy.explain(world.send(2).request_id)
    assert decision.candidates[0].figures["prefill_s"] < 1


def test_where_no_answer_is_streamed_a_busy_home_still_spills_over():
    world = World(2)
    for _ in range(20):
        home = world.answer(world.send(*range(5), streamed=False), 10)
    picked = Counter()
    for _ in range(20):
        world.now += 1
        picked[name(world.send(*range(5), streamed=False))] += 1
    assert min(picked.values()) >= 8
    assert picked[home] >= picked.total() / 2


def test_a_speed_is_learned_from_first_tokens():
    world = World(1)
    for number in range(1, 30):
        world.answer(world.send(*range(number * 100, number * 100 + 10)), 7.0)
    [decision] = world.strategy.explain(world.send(*range(5000, 5010)).request_id)
    assert decision.candidates[0].figures["prefill_s"] == pytest.approx(7.0, rel=0.05)


def test_an_answer_that_comes_all_at_once_tells_the_same_as_its_first_token_and_its_end():
    parts, whole = World(2), World(2)
    for number in range(1, 30):
        prompt = range(number * 100, number * 100 + number % 10)
        assert parts.answer(parts.send(*prompt), 1.0) == whole.answer_whole(whole.send(*prompt), 1.0)
    told = [world.strategy.explain(world.send(*range(5000, 5010)).request_id) for world in (parts, whole)]
    assert told[0] == told[1]


def test_a_slow_replica_gets_less():
    world, picked = World(2), Counter()
    for number in range(1, 200):
        charge = world.send(*range(number * 100, number * 100 + 10))
        picked[name(charge)] += 1
        world.answer(charge, 4.0 if name(charge) == "0" else 0.5)
    assert picked["1"] > 3 * picked["0"]


def test_a_decision_explains_itself():
    world = World(3)
    home = world.answer(world.send(*range(20)), 1.5)
    charge = world.send(*range(30))
    [decision] = world.strategy.explain(charge.request_id)
    assert (decision.picked, decision.reason, decision.figures["prompt_bytes"]) == (home, "prefix_hit", 30 * BLOCK + 100)
    assert [term.figures["cached_bytes"] for term in decision.candidates] == [20 * BLOCK, 0, 0]
    assert decision.candidates[0].figures["prefill_s"] < decision.candidates[1].figures["prefill_s"]
    assert world.strategy.explain("unknown") == []


def test_only_the_last_decisions_are_kept():
    world = World(1, decisions=2)
    requests = [world.send(number).request_id for number in range(3)]
    assert [len(world.strategy.explain(request_id)) for request_id in requests] == [0, 1, 1]


def test_of_an_id_that_every_request_bears_the_last_decisions_are_explained():
    world = World(1)
    for number in range(50):
        world.strategy.select(RouteRequest("same", "m", "/v1/completions", b'{"prompt":"%d"}' % number), world.table.models["m"].candidates)
        world.now += 1
    told = world.strategy.explain("same")
    assert [decision.at for decision in told] == [world.now - ago for ago in range(8, 0, -1)]


def test_predicted_and_actual_first_tokens_are_counted():
    world = World(1)
    for number in range(1, 50):
        world.answer(world.send(*range(number * 100, number * 100 + 10)), 10 * BLOCK / SPEED)
    [predicted] = world.value("nebula_strategy_prefix_predicted_first_token_seconds_total").values()
    [actual] = world.value("nebula_strategy_prefix_actual_first_token_seconds_total").values()
    assert actual == pytest.approx(49 * 10 * BLOCK / SPEED)
    assert predicted == pytest.approx(actual, rel=0.1)


def test_requests_that_another_strategy_decided_are_left_alone():
    world = World(1)
    world.strategy.observe(RouteEvent(kind="charged", model_uid="other", replica_id="0", incarnation=1, request_id="r", at=0.0))
    assert "other" not in world.strategy._fleets


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["charged", "charged", "first_token", "finished", "failed", "gone"]),
            st.integers(0, 3),
            st.integers(1, 2),
            st.integers(0, 6),
            st.booleans(),
            st.floats(0.0, 2.0),
        ),
        max_size=80,
    )
)
def test_any_order_of_events_however_late_leaves_sound_estimates(events):
    world = World(4)
    for step, (kind, replica, incarnation, request, streamed, late_s) in enumerate(events):
        world.now += step % 3
        blocks = PrefixBlocks((request, request + 10), (BLOCK,) * 2, 2 * BLOCK, streamed) if kind == "charged" else None
        world.strategy.observe(
            RouteEvent(
                kind=kind,
                model_uid="m",
                replica_id=str(replica),
                incarnation=incarnation,
                request_id=str(request),
                at=world.now - late_s,
                prefix_blocks=blocks,
                whole=kind == "finished" and streamed,
            )
        )
    decision = world.strategy.explain(world.send(1, 11, 12).request_id)[0]
    assert all(0 <= term.figures[name] < 1e6 for term in decision.candidates for name in ("wait_s", "prefill_s"))


@pytest.mark.parametrize("content", ["", "x" * 5_000_000, "data:image/png;base64," + "iVBORw0KGgo" * 100_000])
def test_odd_prompts_are_routed(content):
    strategy, candidates = TestContract().make_strategy(), make_candidates(3)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    assert strategy.select(RouteRequest("r", "m", "/v1/chat/completions", body), candidates).candidate in candidates


def short(world: World, number: int) -> Charge:
    """A request of one short prompt, the same each time."""
    charge = world.router.pick(world.table.models["m"], RouteRequest(f"s{number}", "m", "", b"", PrefixBlocks((7,), (256,), 450)))
    assert charge is not None
    return charge


def test_one_short_prompt_sent_many_times_spreads_over_an_idle_fleet():
    world, picked = World(4), Counter()
    for number in range(16):
        charge = short(world, number)
        picked[name(charge)] += 1
        world.now += 0.05
        charge.first_token()
    assert sorted(picked.values()) == [4, 4, 4, 4]


def test_one_short_prompt_spreads_over_the_fleet_of_two_gateways_that_tell_each_other():
    worlds, picked = (World(4), World(4)), Counter()
    told: list[RouteEvent] = []
    for world in worlds:
        world.strategy.observe = lambda event, observe=world.strategy.observe: (told.append(event), observe(event))
    hear = [Prefix.observe.__get__(world.strategy) for world in worlds]
    for number in range(16):
        here, there = number % 2, 1 - number % 2
        charge = short(worlds[here], number)
        picked[name(charge)] += 1
        worlds[here].now += 0.05
        charge.first_token()
        for event in told:
            worlds[there].now = worlds[here].now
            hear[there](event)
        told.clear()
        worlds[there].table.replica("m", name(charge)).set_charged_elsewhere(charge.candidate.charged)
    assert sorted(picked.values()) == [4, 4, 4, 4]


def test_long_prompts_that_share_most_stay_together_while_the_load_is_light():
    world, system = World(4), range(16)
    home = world.answer(world.send(*system), 1.1)
    streams = []
    for number in range(1, 9):
        charge = world.send(*system, number)
        world.now += 0.3
        charge.first_token()
        streams.append(name(charge))
    assert set(streams) == {home}


def test_a_replica_that_never_answered_is_asked_when_the_others_prove_faster_than_believed():
    world, picked = World(4), Counter()
    for number in range(1, 200):
        charge = world.send(*range(number * 100, number * 100 + 10))
        picked[name(charge)] += 1
        world.answer(charge, 0.05)
    assert len(picked) == 4


def test_a_replica_whose_slots_are_all_taken_is_left_for_one_that_is_free():
    world = World(2)
    home = world.answer(world.send(*range(16)), 1.1)
    for number in range(1, 60):  # so that it is known how long an answer is decoded
        charge = world.send(*range(16), -number)
        world.now += 0.1
        charge.first_token()
        world.now += 60
        charge.finish()
    running = [world.send(*range(16), number) for number in range(1, 4)]
    for charge in running:
        world.now += 0.3
        charge.first_token()
    full = sum(name(charge) == home for charge in running)
    assert full == 3
    world.table.replica("m", home).set_stats(EndpointStats(running=full, pending=1))
    assert name(world.send(*range(16), 90)) == home  # whose sample is looked at when it is picked
    assert name(world.send(*range(16), 91)) != home


def test_hashes_that_collide_cost_a_wrong_guess_and_nothing_else():
    world = World(2, kv_capacity_tokens=20 * BLOCK // 4)
    for number in range(100):
        world.answer(world.send(*[1] * 60, number % 3, *[1] * 60), 0.1)
    assert len(world.strategy._fleets["m"].index) <= 2 * 20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        json.dumps({"model": "m", "prompt": list(range(100_000))}).encode(),
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}] * 10_000}).encode(),
    ],
    ids=["nothing", "no prompt", "token ids", "10,000 messages"],
)
def test_an_odd_body_is_weighed_by_a_bounded_number_of_blocks(body):
    world = World(3)
    request = RouteRequest("r", "m", "/v1/chat/completions", body)
    charge = world.router.pick(world.table.models["m"], request)
    charge.finish()
    assert len(request.blocks().hashes) <= 90
    assert len(world.strategy._fleets["m"].index) <= 90


def test_who_finds_the_memory_full_is_expected_to_wait_for_an_answer_to_end():
    world = World(1, bytes_per_token=1, kv_capacity_tokens=100 * BLOCK)
    for number in range(60):  # so that it is known how long an answer is decoded
        charge = world.send(number)
        charge.first_token()
        world.now += 60
        charge.finish()
    for number in range(1, 3):
        world.send(*range(number * 100, number * 100 + 45)).first_token()
    world.table.replica("m", "0").set_stats(EndpointStats(running=2, pending=0, kv_capacity_tokens=100 * BLOCK, kv_cache_usage=0.91))
    small, large = world.send(*range(900, 905)), world.send(*range(900, 940))
    waits = [world.strategy.explain(charge.request_id)[0].candidates[0].figures["wait_s"] for charge in (small, large)]
    assert waits[0] < 1
    assert 10 < waits[1] < 60


def test_prompts_that_wait_in_an_engine_that_has_slots_left_do_not_fill_them():
    world = World(1)
    world.table.replica("m", "0").set_stats(EndpointStats(running=9, pending=0))
    world.answer(world.send(1), 0.1)
    world.table.replica("m", "0").set_stats(EndpointStats(running=3, pending=2))
    world.answer(world.send(1), 0.1)
    assert world.strategy._fleets["m"].replicas["0"].slots == 0
