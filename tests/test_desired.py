"""Model requests: validated, written and seeded on a real store."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from nebula_core import desired
from nebula_core.errors import InvalidModelRequest, UnknownModel
from nebula_core.interfaces import MAX_OPERATIONS, Put
from nebula_core.seeding import Seeded, seed
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.testing.engines import FakeEngine
from nebula_core.types import ModelRequest

ENGINES = {"fake": FakeEngine()}
NOW = 1_700_000_000.0


@pytest.fixture
async def store(tmp_path):
    async with EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logging.getLogger("test")) as store:
        yield store


def request(model_uid="m", **table):
    return desired.to_request(desired.parse({"model_uid": model_uid, "engine": "fake", **table}), ENGINES)


async def stored(store, model_uid="m"):
    entry = await store.get(keys.model_request(model_uid))
    return None if entry is None else codec.decode(ModelRequest, entry.value)


# --- validation ---------------------------------------------------------------------------------------------------------------


def test_a_table_becomes_a_request_and_the_engines_keys_go_to_the_engine():
    made = request("Qwen/Qwen3-8B", aliases=["qwen"], replicas=2, first_byte_timeout_s=30, context=4096, stop=["a", "b"])
    assert made == ModelRequest(
        model_uid="Qwen/Qwen3-8B",
        engine="fake",
        aliases=("qwen",),
        replicas=2,
        first_byte_timeout_s=30,
        engine_args={"context": 4096, "stop": ["a", "b"]},
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"engine": "vllm"}, r'the model "m": the engine "vllm" is not installed \(installed: fake\)'),
        ({"replicas": 10_001}, "replicas"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": "many"}, 'the model "m" replicas: .*integer.*many'),
        ({"replicas": 3, "max_replicas": 2}, r"replicas \(3\) must lie between min_replicas \(0\) and max_replicas \(2\)"),
        ({"replicas": 1, "min_replicas": 2}, r"replicas \(1\) must lie between min_replicas \(2\) and max_replicas \(unlimited\)"),
        ({"min_replicas": 3, "max_replicas": 2}, r"min_replicas \(3\) is above max_replicas \(2\)"),
        ({"max_replicas": 99_999}, "max_replicas must lie between 0 and 10000"),
        ({"first_byte_timeout_s": 0}, "first_byte_timeout_s: Input should be greater than 0"),
        ({"first_byte_timeout_s": float("inf")}, "first_byte_timeout_s: Input should be a finite number"),
        ({"gpus_per_replica": -1}, "gpus_per_replica"),
        ({"gpus_per_replica": 1, "gpu_memory_gib": 0}, "gpu_memory_gib: Input should be greater than 0"),
        ({"gpu_memory_gib": 40}, "gpu_memory_gib says what each GPU must have, and gpus_per_replica is 0"),
        ({"max_per_node": 0}, "max_per_node: Input should be greater than or equal to 1"),
        ({"node_labels": {"zone": "two words"}}, "node_labels.zone"),
        ({"aliases": ["m"]}, "aliases names a name twice, or the model_uid itself"),
        ({"aliases": [""]}, "aliases: '' is no name"),
        ({"model_uid": " m"}, "no space around"),
        ({"model_uid": "a//b"}, "between its slashes something must stand"),
        ({"model_uid": "../m"}, "not . or .."),
        ({"model_uid": "a\nb"}, "printable"),
    ],
)
def test_what_cannot_be_accepted_is_named(table, message):
    with pytest.raises(InvalidModelRequest, match=message):
        request(**table)


def test_what_a_model_needs_of_its_nodes_is_kept_in_bytes_and_words():
    made = request(gpus_per_replica=2, gpu_memory_gib=39.5, node_labels={"zone": "a"}, max_per_node=1)
    assert (made.gpus_per_replica, made.gpu_memory_bytes, made.node_labels, made.max_per_node) == (2, 39.5 * 2**30, {"zone": "a"}, 1)


@pytest.mark.parametrize("wrong", [{"gpus_per_replica": -1}, {"gpus_per_replica": 1, "gpu_memory_bytes": -5}, {"max_per_node": 0}])
def test_a_request_that_was_written_by_hand_is_checked_too(wrong):
    with pytest.raises(InvalidModelRequest, match=f"{list(wrong)[-1]} must be"):
        desired.check_numbers(ModelRequest(model_uid="m", engine="fake", **wrong))


def test_a_table_without_replicas_keeps_to_its_bounds():
    assert (request(min_replicas=2).replicas, request(max_replicas=0).replicas, request().replicas) == (2, 0, 1)


class BrokenEngine(FakeEngine):
    def __init__(self, error=None):
        self.error = error or KeyError("a bug in a plugin")

    def specs(self, request):
        raise self.error


def test_an_engine_that_fails_is_named():
    table = desired.parse({"model_uid": "m", "engine": "broken"})
    with pytest.raises(InvalidModelRequest, match='the engine "broken" failed on this request: KeyError'):
        desired.to_request(table, {"broken": BrokenEngine()})


def test_an_engine_that_fails_hides_no_model():
    made = ModelRequest(model_uid="m", engine="broken", replicas=3)
    for error in (KeyError("a bug"), RuntimeError("a bug"), RecursionError()):
        assert desired.wanted(made, {"broken": BrokenEngine(error)}) == 3
    assert desired.wanted(made, {}) == 3


# --- writing ------------------------------------------------------------------------------------------------------------------


async def test_applying_tells_what_became_of_each_model_and_keeps_when_it_was_created(store):
    assert await desired.apply(store, [request("a"), request("b")], NOW) == {"a": "created", "b": "created"}
    assert await desired.apply(store, [request("a"), request("b", replicas=2)], NOW + 9) == {"a": "unchanged", "b": "updated"}
    assert (await stored(store, "b")).created == int(NOW)


async def test_all_are_written_or_none(store):
    await desired.apply(store, [request("a", aliases=["x"])], NOW)
    with pytest.raises(InvalidModelRequest, match='the name "x" is used by two models, "a" and "c"'):
        await desired.apply(store, [request("b"), request("c", aliases=["x"])], NOW)
    assert await stored(store, "b") is None


async def test_an_old_clash_of_names_stops_no_write_that_does_not_add_to_it(store):
    clash = [codec.encode(request(uid, aliases=["x"])) for uid in ("a", "b")]  # as two writers at the very same moment may leave it
    await store.transact([Put(keys.model_request(uid), value) for uid, value in zip(("a", "b"), clash, strict=True)])
    await desired.apply(store, [request("c")], NOW)
    assert (await desired.scale(store, ENGINES, "a", {"replicas": 2})).replicas == 2
    with pytest.raises(InvalidModelRequest, match='"x" is used by two models'):
        await desired.apply(store, [request("d", aliases=["x"])], NOW)
    await desired.apply(store, [request("b")], NOW)


async def test_more_models_than_a_transaction_holds_are_refused_in_words(store):
    await desired.apply(store, [request(f"m{number}") for number in range(MAX_OPERATIONS)], NOW)
    with pytest.raises(InvalidModelRequest, match=f"{MAX_OPERATIONS} can be; change fewer models at a time"):
        await desired.apply(store, [request(f"n{number}") for number in range(MAX_OPERATIONS + 1)], NOW)
    assert await stored(store, "n0") is None


async def test_a_name_may_move_from_one_model_to_another_in_one_go(store):
    await desired.apply(store, [request("a", aliases=["x"]), request("b")], NOW)
    await desired.apply(store, [request("a"), request("b", aliases=["x"])], NOW)
    assert (await stored(store, "b")).aliases == ("x",)


async def test_fields_of_a_newer_nebula_are_kept(store):
    await store.transact([Put(keys.model_request("m"), codec.encode(request())[:-1] + b',"color":"green"}')])
    await desired.scale(store, ENGINES, "m", {"replicas": 3})
    assert b'"color":"green"' in (await store.get(keys.model_request("m"))).value


async def test_scaling_changes_the_numbers_only_and_within_the_bounds(store):
    await desired.apply(store, [request(context=7, max_replicas=4)], NOW)
    await desired.scale(store, ENGINES, "m", {"replicas": 4})
    assert (await stored(store)).engine_args == {"context": 7}
    with pytest.raises(InvalidModelRequest, match="max_replicas"):
        await desired.scale(store, ENGINES, "m", {"replicas": 5})
    assert (await desired.scale(store, ENGINES, "m", {"max_replicas": 2})).replicas == 2
    assert (await desired.scale(store, ENGINES, "m", {"max_replicas": None})).max_replicas is None


async def test_an_unknown_model_is_answered_with_the_known_ones(store):
    await desired.apply(store, [request("a"), request("b")], NOW)
    for call in (desired.unload(store, "c"), desired.scale(store, ENGINES, "c", {"replicas": 1})):
        with pytest.raises(UnknownModel, match=r'there is no model "c" \(models: a, b\)'):
            await call


async def test_concurrent_writers_lose_nothing(store):
    await desired.apply(store, [request(replicas=0)], NOW)

    async def grow():
        for _ in range(3):
            current = (await stored(store)).replicas
            await desired.scale(store, ENGINES, "m", {"replicas": current + 1})

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(grow())
        tasks.create_task(desired.apply(store, [request("n")], NOW))
        tasks.create_task(desired.apply(store, [request("o")], NOW))
    assert (await stored(store)).replicas == 3
    assert await stored(store, "n")
    assert await stored(store, "o")


# --- seeding ------------------------------------------------------------------------------------------------------------------


async def test_a_table_is_applied_once(store):
    assert await seed(store, "host", [request(replicas=1)], NOW) == Seeded({"m": "created"})
    await desired.scale(store, ENGINES, "m", {"replicas": 5})
    assert await seed(store, "host", [request(replicas=1)], NOW) == Seeded({})
    assert (await stored(store)).replicas == 5


async def test_a_model_unloaded_at_run_time_stays_unloaded(store):
    await seed(store, "host", [request()], NOW)
    await desired.unload(store, "m")
    await seed(store, "host", [request()], NOW)
    assert await stored(store) is None


async def test_a_changed_table_is_applied_over_what_was_changed_at_run_time(store):
    await seed(store, "host", [request(replicas=1)], NOW)
    await desired.scale(store, ENGINES, "m", {"replicas": 5})
    assert (await seed(store, "host", [request(replicas=2)], NOW)).applied == {"m": "updated"}
    assert (await stored(store)).replicas == 2


async def test_a_vanished_table_takes_its_model_with_it(store):
    await seed(store, "host", [request("m"), request("n")], NOW)
    assert await seed(store, "host", [request("n")], NOW) == Seeded({}, deleted=("m",))
    assert await stored(store, "m") is None
    assert await stored(store, "n")


async def test_a_vanished_table_leaves_a_model_that_somebody_changed(store):
    await seed(store, "host", [request()], NOW)
    await desired.scale(store, ENGINES, "m", {"replicas": 5})
    assert await seed(store, "host", [], NOW) == Seeded({}, left=("m",))
    assert await seed(store, "host", [], NOW) == Seeded({})
    assert await stored(store)


async def test_a_vanished_table_leaves_a_model_that_another_hosts_file_asks_for(store):
    await seed(store, "one", [request()], NOW)
    await seed(store, "two", [request()], NOW)
    assert (await seed(store, "one", [], NOW)).left == ("m",)
    assert (await seed(store, "two", [], NOW)).deleted == ("m",)


async def test_files_on_two_hosts_cannot_fight(store):
    await seed(store, "one", [request(replicas=1)], NOW)
    await seed(store, "two", [request(replicas=2)], NOW)
    for host, replicas in (("one", 1), ("two", 2), ("one", 1)):
        await seed(store, host, [request(replicas=replicas)], NOW)
    assert (await stored(store)).replicas == 2


async def test_a_model_loaded_at_run_time_is_no_seeds_business(store):
    await desired.apply(store, [request("run-time")], NOW)
    await seed(store, "host", [request("m")], NOW)
    await seed(store, "host", [], NOW)
    assert await stored(store, "run-time")
