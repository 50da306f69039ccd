"""Fleets that are scaled in virtual time: the engine against the other one, and what can be reckoned on paper."""

from math import isnan
from random import Random

import pytest
from nebula_engine_sim import CostModel, Job, StepEngine
from nebula_simulate.errors import TraceError
from nebula_simulate.scaling.baselines import clairvoyant
from nebula_simulate.scaling.baselines.apa import Apa
from nebula_simulate.scaling.baselines.hpa import Hpa
from nebula_simulate.scaling.baselines.schedule import Schedule, fixed
from nebula_simulate.scaling.compare import Comparison
from nebula_simulate.scaling.deciders import Bounds
from nebula_simulate.scaling.engine import BatchEngine, EngineSpec
from nebula_simulate.scaling.figures import figures, regained_s
from nebula_simulate.scaling.fleet import Room
from nebula_simulate.scaling.replay import Run, Scene
from nebula_simulate.scaling.requests import Request, Workload
from nebula_simulate.scaling.sight import Seen, Sight
from nebula_simulate.scaling.workloads import Lengths, servegen, steps

NO_COST = dict.fromkeys(("prefill_token_s", "prefill_pair_s", "decode_sequence_s", "decode_context_s"), 0.0)
PLAIN = EngineSpec(cost=CostModel(step_s=0.1, **NO_COST), max_sequences=10)
"""Every step takes 0.1 s, whatever is in it, and ten requests fit."""


def spread(rate, seconds, *, prompt=100, answer=10):
    """Requests at equal distances."""
    return Workload("even", [Request(place / rate, prompt, answer) for place in range(int(rate * seconds))])


def first_tokens(engine, requests):
    """When each begins, of an engine that is asked as a fleet asks it."""
    found = {}

    def advance(until):
        while engine.next_at <= until:
            found.update(engine.advance()[0])

    for place, request in enumerate(requests):
        advance(request.came)
        engine.submit(place, request, request.came)
    advance(1e9)
    assert engine.in_flight == 0
    assert engine.usage == 0
    return found


def first_tokens_of_steps(requests):
    """The same of the engine that routing is simulated with, whose every sequence is an object."""
    engine, found = StepEngine(block_size=16, capacity_blocks=100_000), {}
    for place, request in enumerate(requests):
        while (due := engine.next_at()) is not None and due <= request.came:
            found.update((int(each.request_id), each.at) for each in engine.advance(due) if each.kind == "first_token")
        engine.submit(Job(str(place), (), request.prompt_tokens, request.output_tokens), request.came)
    while (due := engine.next_at()) is not None:
        found.update((int(each.request_id), each.at) for each in engine.advance(due) if each.kind == "first_token")
    return found


@pytest.mark.parametrize("rate", [1.0, 8.0, 14.0])
def test_the_fast_engine_takes_the_very_steps_of_the_slow_one(rate):
    rng, at, requests = Random(3), 0.0, []
    for _ in range(300):
        at += rng.expovariate(rate)
        requests.append(Request(at, rng.randint(1, 4000), 1 + int(rng.expovariate(1 / 200))))
    fast = first_tokens(BatchEngine(EngineSpec(kv_tokens=1_600_000)), requests)
    assert fast == pytest.approx(first_tokens_of_steps(requests), abs=1e-9)


def test_a_request_waits_for_a_place_and_for_room_in_the_cache():
    """Ten places, and then a cache for two: the next begins when the first has ended, a step for its prompt and nine for its answer."""
    crowd = [Request(0.0, 100, 10)] * 11
    assert first_tokens(BatchEngine(PLAIN), crowd)[10] == pytest.approx(1.1)
    small = EngineSpec(cost=PLAIN.cost, max_sequences=10, kv_tokens=220)
    assert first_tokens(BatchEngine(small), crowd[:3])[2] == pytest.approx(1.1)


def test_no_replica_passes_more_than_full_steps_though_arithmetic_costs_nothing():
    """Steps of 1000 tokens and 0.1 s pass a hundred requests of 100 tokens a second."""
    spec = EngineSpec(cost=PLAIN.cost, max_sequences=10, max_batched_tokens=1000)
    assert spec.most_per_s([Request(0.0, 91, 10)] * 7) == pytest.approx(100)


def test_a_constant_load_on_a_fixed_fleet_costs_what_it_costs():
    record = Run(spread(4.0, 900), Scene(PLAIN, start=2), fixed(2)).run()
    found = figures(record, 2.0, gpus=4)
    assert found["attainment"] == 1.0
    assert found["gpu_hours"] == pytest.approx(2 * 4 * 900 / 3600, rel=0.001)
    assert (found["failed"], found["changes"], found["most_waiting"]) == (0, 0, 0)


def test_what_no_replica_can_hold_is_not_served_and_a_quantile_is_that_of_the_nearest_rank():
    requests = [Request(float(place), 10, 1 + place) for place in range(100)] + [Request(100.0, 10**9, 1)]
    found = figures(record := Run(Workload("one too long", requests), Scene(PLAIN), fixed(1)).run(), 2.0, 1)
    assert (found["served"], found["attainment"], found["refused"]) == (100 / 101, 1.0, 1)
    assert found["ttft_p99_s"] == sorted(record.ttft_s[:100])[98]


def test_a_replica_serves_when_it_has_booted_and_is_paid_for_from_the_beginning():
    record = Run(spread(1.0, 600), Scene(PLAIN, boot_s=95.0, start=1), Schedule([(0.0, 1), (100.0, 2), (400.0, 1)])).run()
    ready = {at: number for at, _, number, _, _ in record.looks}
    assert (ready[190.0], ready[200.0], ready[400.0]) == (1, 2, 1)
    assert record.paid_s == pytest.approx(600 + 300, abs=3)


def test_what_comes_while_nothing_serves_waits_in_the_room_for_as_long_as_it_may():
    """One a second: the first is answered after 39.5 s, and of a room of 30 the rest are refused."""
    scene = Scene(PLAIN, boot_s=39.5, start=0, room=Room(places=30))
    found = figures(record := Run(spread(1.0, 60), scene, fixed(1)).run(), 2.0, 1)
    assert (found["most_waiting"], found["failed"]) == (30, 10)
    assert found["longest_wait_s"] == pytest.approx(39.5, abs=0.2)
    assert sum(isnan(each) for each in record.ttft_s) == 10
    late = figures(Run(spread(1.0, 120), Scene(PLAIN, boot_s=100.0, start=0), fixed(1)).run(), 2.0, 1)
    assert late["failed"] == pytest.approx(50, abs=2)


def test_a_replica_that_goes_ends_its_requests_first():
    record = Run(spread(5.0, 200), Scene(PLAIN, start=3), Schedule([(0.0, 3), (50.0, 1)])).run()
    assert not any(isnan(each) for each in record.ttft_s)


def test_the_time_to_be_in_time_again_is_counted_from_the_step():
    """Two replicas pass 20 a second; from 100 s on 30 come, and the third is ready at 160 s."""
    calm = [Request(place / 10, 10, 10) for place in range(1000)]
    rush = [Request(100 + place / 30, 10, 10) for place in range(9000)]
    load = Workload("step", calm + rush, steps_at=(100.0,))
    record = Run(load, Scene(PLAIN, boot_s=60.0, start=2), Schedule([(0.0, 2), (100.0, 6)])).run()
    [again] = regained_s(record, 2.0)
    assert 40 <= again <= 80
    assert regained_s(Run(load, Scene(PLAIN, start=6), fixed(6)).run(), 2.0) == [0.0]


def seen(*in_flight, starting=0):
    replicas = [Seen(str(place), "v", True, 0, number) for place, number in enumerate(in_flight)]
    replicas += [Seen(f"s{place}", "v", False) for place in range(starting)]
    return Sight(tuple(replicas), sum(in_flight), 0, 1.0, None)


@pytest.mark.parametrize(
    ("sight", "wanted"),
    [
        (seen(10, 10), 2),
        (seen(10, 11), 2),  # within the tolerance of a tenth
        (seen(15, 15), 3),
        (seen(90, 90), 6),  # 18 are wanted, and four or as many again may come at once
        (seen(15, 15, starting=1), 3),  # 30 over three replicas is what is aimed at
        (seen(5, 5, 5, 5), 4),  # fewer only after five minutes
    ],
)
def test_hpa_follows_its_formula(sight, wanted):
    hpa = Hpa(10.0, Bounds(1, 20))
    assert hpa.wanted(seen(*[10] * len(sight.replicas)), 0.0) == len(sight.replicas)
    assert hpa.wanted(sight, 15.0) == wanted


def test_hpa_goes_down_to_the_most_of_five_minutes():
    hpa = Hpa(10.0, Bounds(1, 20))
    hpa.wanted(seen(10, 10, 10, 10), 0.0)
    hpa.wanted(seen(7, 7, 7, 7), 15.0)
    assert hpa.wanted(seen(2, 2, 2, 2), 299.0) == 4
    assert hpa.wanted(seen(2, 2, 2, 2), 301.0) == 3
    assert hpa.wanted(seen(2, 2, 2, 2), 320.0) == 1


@pytest.mark.parametrize(("in_flight", "wanted"), [((12,) * 4, 5), ((50,) * 4, 8), ((10.5,) * 4, 4), ((1,) * 4, 4)])
def test_apa_follows_its_formula(in_flight, wanted):
    assert Apa(10.0, Bounds(1, 20)).wanted(seen(*in_flight), 0.0) == wanted


def test_apa_halves_at_most_and_after_its_cooldown():
    busy = Apa(10.0, Bounds(1, 20))
    assert busy.wanted(seen(10, 10, 10, 10), 0.0) == 4
    assert busy.wanted(seen(1, 1, 1, 1), 290.0) == 4
    assert busy.wanted(seen(1, 1, 1, 1), 310.0) == 2


def test_the_clairvoyant_starts_replicas_before_they_are_needed_and_bridges_short_pauses():
    need = [1] * 30 + [3] * 10 + [1] * 5 + [3] * 10 + [1] * 40
    assert clairvoyant.schedule(need, 100.0) == [(0.0, 1), (200.0, 3), (550.0, 1), (950.0, 0)]
    assert clairvoyant.schedule(need, 30.0)[1:4] == [(270.0, 3), (400.0, 1), (420.0, 3)]


def test_the_clairvoyant_needs_what_the_rate_says():
    assert clairvoyant.needs(spread(4.5, 600), 1.0)[10:50] == [5] * 40


def test_a_policy_follows_a_step_within_its_bounds_the_same_each_time():
    load = steps([2.0, 12.0, 2.0], 300.0, Lengths(1000, 200, Random(1)), Random(2))
    comparison = Comparison(load, Scene(EngineSpec(), boot_s=30.0, start=1), Bounds(1, 4))
    slo, again = comparison.rows(["slo", "slo"])
    numbers = [wanted for _, wanted, _, _, _ in slo.looks]
    assert (numbers[0], 1 < max(numbers) <= 4, numbers[-1] < max(numbers)) == (1, True, True)
    assert slo.figures["failed"] == 0
    assert slo.figures["attainment"] >= 0.97
    assert again == slo


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"0,1.0,1.0,Gamma,0,0", "a Gamma law of shape 0"),
        (b"0,1.0,1.0,Weibull,-0.5,1", "a Weibull law of shape -0.5"),
        (b"0,1.0,1.0,Gamma,nan,1", "a Gamma law of shape nan"),
        (b"0,1.0,1.0,Pareto,1.0,1", "no law is known as Pareto, but Gamma and Weibull"),
        (b"0,inf,1.0,,0,0", "inf requests per second"),
        (b"0,1.0,1.0,\xff,0,0", "can't decode byte 0xff"),
        (b"0,1.0", "not `start,rate,cv,law,shape,scale`"),
    ],
)
def test_a_broken_line_of_a_servegen_mix_is_named(tmp_path, line, said):
    (tmp_path / "chunk-0-trace.csv").write_bytes(b"0,2.0,1.0,Gamma,1.0,0.5\n" + line)
    with pytest.raises(TraceError, match=r"chunk-0-trace\.csv, line 2: ") as told:
        servegen(tmp_path, 0.0, None, 1.0, Lengths(100, 10, Random(1)), 0)
    assert said in str(told.value)


def test_a_servegen_mix_begins_with_its_first_window_whatever_its_clock_says(tmp_path):
    (tmp_path / "chunk-0-trace.csv").write_text("1700000000,0,0,,0,0\n1700000600,1.0,1.0,,0,0\n")
    found = servegen(tmp_path, 600.0, None, 1.0, Lengths(100, 10, Random(1)), 0).requests
    assert 0 < found[0].came < found[-1].came < 600


def test_a_servegen_mix_keeps_the_rates_of_its_clients_and_their_bursts(tmp_path):
    (tmp_path / "chunk-0-trace.csv").write_text("0,2.0,1.0,Gamma,1.0,0.5\n600,0,0,,0,0\n1200,4.0,3.0,Weibull,0.5,0.125\n")
    (tmp_path / "chunk-1-trace.csv").write_text("0,1.0,1.0,,0,0\n600,1.0,1.0,,0,0\n")
    found = servegen(tmp_path, 0.0, None, 1.0, Lengths(100, 10, Random(1)), 0).requests
    counts = [sum(since <= each.came < since + 600 for each in found) for since in (0, 600, 1200)]
    assert counts == pytest.approx([1800, 600, 2400], rel=0.15)
    assert list(found) == sorted(found)
    half = servegen(tmp_path, 600.0, 600.0, 0.5, Lengths(100, 10, Random(1)), 0).requests
    assert len(half) == pytest.approx(300, rel=0.2)
