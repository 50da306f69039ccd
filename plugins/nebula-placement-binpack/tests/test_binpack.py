import pytest
from nebula_placement_binpack import nebula_register_placements

from nebula_core import FreeGpu, Needs, Place, PluginSettings, ReplicaSpec, Spot
from nebula_core.testing.placement import GIB, PlacementContract


def binpack():
    [provider] = nebula_register_placements()
    return provider.build(None, PluginSettings())


def node(name, *sizes, of=8, **fields):
    return Place(node_id=name, gpus=of, free_gpus=tuple(FreeGpu(i, "", size * GIB) for i, size in enumerate(sizes)), **fields)


def choose(gpus, *places, memory=None):
    needs = Needs(gpu_memory_bytes=memory and memory * GIB)
    return binpack().choose(ReplicaSpec(model_uid="m", engine="e", gpus=gpus), needs, places, ())


class TestContract(PlacementContract):
    def make_placement(self):
        return binpack()


def test_the_fullest_node_that_fits_is_filled_first():
    places = node("a", *[80] * 8), node("b", *[80] * 3), node("c", *[80] * 2)
    assert choose(2, *places) == Spot("c", (0, 1))
    assert choose(3, *places[:2]) == Spot("b", (0, 1, 2))


@pytest.mark.parametrize(("memory", "node_id"), [(20, "small"), (40, "large")])
def test_the_smallest_gpus_that_have_the_memory_are_taken(memory, node_id):
    fitting = {20: [node("large", 80), node("small", *[24] * 4)], 40: [node("large", 80)]}
    assert choose(1, *fitting[memory], memory=memory).node_id == node_id


def test_where_nobody_knows_the_memory_small_gpus_are_not_sought_out():
    assert choose(1, node("large", 80), node("small", 24, 24)).node_id == "large"


def test_the_gpus_of_one_replica_are_alike():
    assert choose(2, node("a", 24, 80, 40, 80)) == Spot("a", (1, 3))


def test_of_equals_the_node_with_fewer_replicas_of_the_model_comes_first():
    assert choose(1, node("a", 80, siblings=1), node("b", 80), node("c", 80)).node_id == "b"


def test_what_needs_no_gpu_goes_where_the_fewest_replicas_per_processor_are():
    assert choose(0, node("a", cpus=4, replicas=1), node("b", cpus=64, replicas=8), node("c", cpus=64, replicas=9)).node_id == "b"
