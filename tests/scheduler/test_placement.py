"""What replicas need of their place: found, kept to, learned and explained."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from nebula_placement_binpack import Binpack
from nebula_placement_spread import Settings as SpreadSettings
from nebula_placement_spread import Spread

from nebula_core.interfaces import Placement, Spot
from nebula_core.scheduler.careful import Careful
from nebula_core.scheduler.reconcile import Rules
from nebula_core.scheduler.world import Refusal
from nebula_core.testing.fleet import Fleet
from nebula_core.testing.gpus import GIB, gpu, node, using, wanted
from nebula_core.types import GpuStatus, MachineStatus

logger = logging.getLogger("test")


def why(fleet, model="m"):
    [reason] = fleet.statuses[model].reasons
    return reason.partition("cannot be placed: ")[2]


# --- what fits ----------------------------------------------------------------------------------------------------------------


def test_a_gpu_must_have_the_memory_that_is_asked_for():
    fleet = Fleet(node("a", gpu(0, total=24)), node("b", gpu(0, total=80)))
    fleet.decide({"m": wanted(1, memory=40)})
    assert fleet.on() == {"0": "b"}


def test_memory_that_somebody_else_uses_is_not_free():
    fleet = Fleet(node("a", gpu(0, used=50), gpu(1)))
    fleet.decide({"m": wanted(1, memory=40)})
    assert fleet.plans["m"].assignments[0].gpu_indexes == (1,)


def test_a_gpu_that_does_not_tell_its_memory_is_given_to_nobody_who_needs_to_know():
    fleet = Fleet(node("a", GpuStatus(index=0)))
    fleet.decide({"m": wanted(1, memory=1)})
    assert why(fleet) == (
        "needs 1 GPU with 1 GiB free; the best node, a, has 0, and 1 with less; no node has as many even when it is empty"
    )
    fleet.decide({"m": wanted(1)})
    assert fleet.on() == {"0": "a"}


def test_a_gpu_with_memory_errors_is_given_to_nobody():
    fleet = Fleet(node("a", gpu(0, ecc_errors=1), gpu(1, ecc_errors=0), gpu(2)))
    fleet.decide({"m": wanted(3)})
    assert {a.gpu_indexes for a in fleet.plans["m"].assignments} == {(1,), (2,)}
    assert why(fleet) == "needs 1 GPU; the best node, a, has 0 free; 1 GPU with memory errors left out"


def test_a_gpu_that_its_node_reports_no_more_is_given_to_nobody():
    fleet = Fleet(node("a", gpu(0), gpu(1)))
    fleet.run({"m": wanted(2)}, steps=3)
    fleet.nodes["a"] = node("a", gpu(1))
    fleet.run({"n": wanted(2, model="n")})
    assert [a.gpu_indexes for a in fleet.plans["n"].assignments] == [(1,)]


def test_a_node_must_bear_all_labels():
    fleet = Fleet(node("a", labels={"zone": "x"}), node("b", labels={"zone": "x", "disk": "nvme"}))
    fleet.decide({"m": wanted(2, gpus=0, node_labels={"zone": "x", "disk": "nvme"})})
    assert fleet.on() == {"0": "b", "1": "b"}


def test_no_node_gets_more_of_a_model_than_it_allows():
    fleet = Fleet(node("a"), node("b"))
    fleet.decide({"m": wanted(5, gpus=0, max_per_node=2), "n": wanted(3, gpus=0, model="n")})
    assert Counter(fleet.on().values()) == {"a": 2, "b": 2}
    assert len(fleet.on("n")) == 3
    assert why(fleet) == "max_per_node is 2, and every node has as many, those that are ending included"


def test_nodes_that_have_as_many_as_they_may_are_counted_where_others_keep_it_away_too():
    fleet = Fleet(node("a"), node("b"), node("c", labels={"zone": "x"}))
    fleet.decide({"m": wanted(5, gpus=0, max_per_node=2, node_labels={"zone": "x"})})
    fleet.nodes["d"] = node("d", labels={"zone": "x"})
    fleet.nodes["e"] = node("e", labels={"zone": "x"})
    fleet.decide({"m": wanted(7, gpus=0, max_per_node=2, node_labels={"zone": "x"})})
    assert why(fleet).startswith("max_per_node is 2, and 3 of 5 nodes have as many, those that are ending included")


def test_replicas_without_gpus_go_by_processors():
    fleet = Fleet(node("a", machine=MachineStatus(cpus=8)), node("b", machine=MachineStatus(cpus=64)))
    fleet.decide({"m": wanted(9, gpus=0)})
    assert Counter(fleet.on().values()) == {"a": 1, "b": 8}


# --- why not ------------------------------------------------------------------------------------------------------------------


def test_the_reason_of_the_issue():
    fleet = Fleet(node("gpu-06", gpu(0, 24), gpu(1, 24)), node("gpu-07", gpu(0), gpu(1, used=60)))
    fleet.decide({"m": wanted(1, gpus=2, memory=40)})
    assert why(fleet) == "needs 2 GPUs with 40 GiB free; the best node, gpu-07, has 1, and 1 with less"


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (wanted(1, gpus=0, node_labels={"zone": "c"}), "no node bears zone=c; nodes bear: zone=a, zone=b"),
        (wanted(1, gpus=0, node_labels={"zoen": "a"}), "no node bears zoen=a; there is no label zoen, only: zone"),
        (
            wanted(1, gpus=4, node_labels={"zone": "b"}),
            "2 of 3 nodes do not bear zone=b; nodes bear: zone=a, zone=b (of 3 nodes, 1 with too few GPUs for it)",
        ),
        (wanted(1, gpus=4), "needs 4 GPUs; the best node, a, has 2 free; no node has as many even when it is empty"),
    ],
)
def test_the_constraint_that_keeps_it_from_the_most_nodes_is_named(goal, reason):
    nodes = [node(name, gpu(0), gpu(1), labels={"zone": zone}) for name, zone in (("a", "a"), ("b", "a"), ("c", "b"))]
    fleet = Fleet(*nodes)
    fleet.decide({"m": goal})
    assert why(fleet) == reason


def test_an_engine_that_few_nodes_offer_is_named():
    fleet = Fleet(node("a", gpu(0)), node("b", engines=("sim",)), node("c", engines=("sim",)))
    fleet.decide({"m": wanted(2)})
    assert why(fleet) == ('2 of 3 nodes do not offer the engine "vllm"; nodes offer: sim, vllm (of 3 nodes, 1 with too few GPUs for it)')


# --- what is placed stays -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"memory": 70},
        {"node_labels": {"zone": "a"}},
        {"max_per_node": 2},
    ],
)
def test_new_needs_that_a_place_meets_move_nothing(change):
    fleet = Fleet(node("a", gpu(0), gpu(1), labels={"zone": "a"}))
    fleet.run({"m": wanted(2)}, steps=3)
    using(fleet, "a", used=78)
    assert not fleet.decide({"m": wanted(2, **change)}).plans


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"memory": 40}, {"b"}),
        ({"node_labels": {"zone": "b"}}, {"b"}),
        ({"max_per_node": 1}, {"a", "b"}),
    ],
)
def test_a_replica_moves_if_its_request_forbids_its_place_and_not_before_the_new_one_is_ready(change, where):
    fleet = Fleet(node("a", gpu(0, 24), gpu(1, 24), labels={"zone": "a"}), node("b", gpu(0), gpu(1), labels={"zone": "b"}))
    fleet.run({"m": wanted(2)}, steps=3)
    assert set(fleet.on().values()) == {"a"}
    for _ in range(10):
        fleet.run({"m": wanted(2, **change)}, steps=1)
        assert len(fleet.endpoints) >= 2
    assert set(fleet.on().values()) == where


def test_a_place_that_is_forbidden_is_kept_while_there_is_no_other():
    fleet = Fleet(node("a", labels={"zone": "a"}))
    fleet.run({"m": wanted(1, gpus=0)}, steps=3)
    fleet.run({"m": wanted(1, gpus=0, node_labels={"zone": "b"})})
    assert fleet.on() == {"0": "a"}
    assert "no node bears zone=b" in why(fleet)


def test_with_one_per_node_and_no_node_to_spare_an_old_replica_makes_room_for_the_new():
    fleet = Fleet(node("a"), node("b"))
    fleet.run({"m": wanted(2, gpus=0, max_per_node=1)}, steps=3)
    changed = {"m": wanted(2, gpus=0, args={"context": 8}, max_per_node=1)}
    for _ in range(10):
        fleet.run(changed, steps=1)
        assert max(Counter(a.node_id for a in fleet.assignments()).values()) == 1
        assert len(fleet.endpoints) >= 1
    assert [a.spec.engine_args for a in fleet.assignments()] == [{"context": 8}] * 2


def test_a_change_that_needs_more_memory_counts_what_the_old_replica_gives_back():
    fleet = Fleet(node("a", gpu(0)))
    fleet.run({"m": wanted(1)}, steps=2)
    using(fleet, "a", used=75)
    fleet.run({"m": wanted(1, args={"context": 8}, memory=70)}, steps=2)
    using(fleet, "a", used=0.5)
    fleet.run({"m": wanted(1, args={"context": 8}, memory=70)}, steps=4)
    assert [a.spec.engine_args for a in fleet.assignments()] == [{"context": 8}]


# --- learned ------------------------------------------------------------------------------------------------------------------


def learned_from(fleet, used, goal):
    fleet.run({"m": goal}, steps=3)
    using(fleet, "a", used=used)
    fleet.run({"m": goal}, steps=2)


def test_what_a_run_took_is_needed_by_the_next_with_a_margin():
    fleet = Fleet(node("a", gpu(0)), rules=Rules(gpu_memory_margin=0.1))
    learned_from(fleet, 40, wanted(1))
    fleet.nodes |= {"b": node("b", gpu(0, 43)), "c": node("c", gpu(0, 48))}
    fleet.decide({"m": wanted(2)})
    assert fleet.on() == {"0": "a", "1": "c"}
    fleet.decide({"m": wanted(3)})
    assert why(fleet).startswith("needs 1 GPU with 44 GiB free (as its last run took, with a margin); the best node, ")


def test_an_engine_that_took_all_it_found_fits_again_where_it_ran():
    fleet = Fleet(node("a", gpu(0)))
    learned_from(fleet, 79, wanted(1))
    fleet.nodes["b"] = node("b", gpu(0))
    fleet.decide({"m": wanted(2)})
    assert fleet.on() == {"0": "a", "1": "b"}


def test_what_was_learned_outlives_replicas_scaling_to_zero_and_refusals_but_not_a_change_of_arguments():
    fleet = Fleet(node("a", gpu(0)))
    learned_from(fleet, 40, wanted(1))
    fleet.run({"m": Refusal(1, "no engine")}, steps=2)
    fleet.run({"m": wanted(0)}, steps=5)
    assert fleet.statuses["m"].gpu_memory_peak.used_bytes == 40 * GIB
    using(fleet, "a", used=70)  # a stranger's
    fleet.run({"m": wanted(1)}, steps=2)
    assert "needs 1 GPU with 44 GiB free" in why(fleet)
    fleet.run({"m": wanted(1, args={"context": 8})}, steps=2)
    assert fleet.on() == {"0": "a"}


def test_a_declared_need_goes_before_what_was_learned():
    fleet = Fleet(node("a", gpu(0)), node("b", gpu(0, 24)))
    learned_from(fleet, 70, wanted(1))
    fleet.decide({"m": wanted(2, memory=20)})
    assert fleet.on() == {"0": "a", "1": "b"}


def test_what_was_learned_on_a_large_gpu_moves_no_replica_from_a_small_one():
    fleet = Fleet(node("a", gpu(0)), node("b", gpu(0, 24)))
    fleet.run({"m": wanted(2)}, steps=3)
    using(fleet, "a", used=70)
    fleet.run({"m": wanted(2)}, steps=5)
    assert fleet.on() == {"0": "a", "1": "b"}


def test_nothing_is_learned_of_a_replica_that_is_not_ready_and_small_growth_is_not_written():
    fleet = Fleet(node("a", gpu(0)))
    fleet.decide({"m": wanted(1)})
    using(fleet, "a", used=60)
    fleet.decide({"m": wanted(1)})
    assert fleet.statuses["m"].gpu_memory_peak is None
    learned_from(fleet, 40, wanted(1))
    using(fleet, "a", used=40.2)
    assert not fleet.decide({"m": wanted(1)}).statuses


# --- policies -----------------------------------------------------------------------------------------------------------------


class Broken(Placement):
    def __init__(self, answer):
        self.answer = answer

    def choose(self, spec, needs, places, siblings):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [KeyError("a bug"), Spot("elsewhere", (0,)), Spot("a", (0, 0)), Spot("a", ()), Spot("a", (7,))])
def test_a_policy_that_errs_is_passed_over_and_named_once(answer, caplog):
    fleet = Fleet(node("a", gpu(0), gpu(1)), rules=Rules(placement=Careful(Broken(answer), logger)))
    fleet.decide({"m": wanted(2)})
    assert fleet.on() == {"0": "a", "1": "a"}
    assert [record.message.startswith("the placement policy Broken is passed over for m: ") for record in caplog.records] == [True]


def test_a_policy_may_let_a_replica_wait():
    fleet = Fleet(node("a", gpu(0)), rules=Rules(placement=Careful(Broken(None), logger)))
    fleet.decide({"m": wanted(1)})
    assert why(fleet) == "it fits on 1 node, but the placement policy lets it wait"


def test_binpack_leaves_a_whole_node_for_a_large_group():
    nodes = [node(name, *map(gpu, range(4))) for name in "abc"]
    fleet = Fleet(*nodes, rules=Rules(placement=Binpack()))
    fleet.decide({"m": wanted(3), "n": wanted(2, gpus=2, model="n"), "o": wanted(1, gpus=4, model="o")})
    assert set(fleet.on("o").values()) == {"c"}


def test_spread_goes_over_zones_and_nodes():
    nodes = [node(name, *map(gpu, range(4)), labels={"zone": name[0]}) for name in ("x1", "x2", "y1", "y2")]
    fleet = Fleet(*nodes, rules=Rules(placement=Spread(SpreadSettings())))
    fleet.decide({"m": wanted(6)})
    assert list(fleet.on().values()) == ["x1", "y1", "x2", "y2", "x1", "y1"]
