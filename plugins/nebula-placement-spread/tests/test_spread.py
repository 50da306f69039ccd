from collections import Counter

from nebula_placement_spread import Settings, nebula_register_placements

from nebula_core import FreeGpu, Needs, Place, ReplicaSpec, Spot
from nebula_core.testing.placement import PlacementContract


def spread(**settings):
    [provider] = nebula_register_placements()
    return provider.build(None, Settings(**settings))


def node(name, free, of=8, **labels):
    return Place(node_id=name, gpus=of, free_gpus=tuple(FreeGpu(i) for i in range(free)), labels=labels)


def choose(*places, siblings=(), gpus=1, **settings):
    return spread(**settings).choose(ReplicaSpec(model_uid="m", engine="e", gpus=gpus), Needs(), places, siblings)


class TestContract(PlacementContract):
    def make_placement(self):
        return spread()


def test_the_emptiest_node_comes_first():
    assert choose(node("a", 3), node("b", 8), node("c", 8)) == Spot("b", (0,))


def test_a_small_node_that_is_empty_is_emptier_than_a_large_one_in_use():
    assert choose(node("a", 6, of=8), node("b", 2, of=2)).node_id == "b"


def test_a_zone_without_the_model_comes_before_an_emptier_node():
    places = node("a", 8, zone="x"), node("b", 1, zone="y")
    assert choose(*places, siblings=[{"zone": "x"}]).node_id == "b"
    assert choose(*places, siblings=[{"zone": "x"}, {"zone": "y"}]).node_id == "a"


def test_the_label_that_means_a_zone_can_be_set():
    places = node("a", 8, rack="1"), node("b", 1, rack="2")
    assert choose(*places, siblings=[{"rack": "1"}], zone_label="rack").node_id == "b"


def test_without_zones_a_node_without_the_model_comes_before_an_emptier_one():
    here = Place(node_id="a", gpus=8, free_gpus=tuple(FreeGpu(i) for i in range(7)), siblings=1)
    assert choose(here, node("b", 2), siblings=[{}]).node_id == "b"


def test_what_needs_no_gpu_is_spread_over_zones_and_then_by_processors():
    nodes = {name: Place(node_id=name, labels={"zone": name[0]}, cpus=cpus) for name, cpus in (("x1", 8), ("x2", 32), ("y1", 8))}
    placed, replicas = [], Counter()
    for _ in range(4):
        places = [Place(node_id=n, labels=p.labels, cpus=p.cpus, replicas=replicas[n], siblings=replicas[n]) for n, p in nodes.items()]
        placed.append(choose(*places, siblings=[nodes[n].labels for n in placed], gpus=0).node_id)
        replicas[placed[-1]] += 1
    assert placed == ["x1", "y1", "x2", "y1"]
