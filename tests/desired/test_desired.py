"""Model requests: validated, and written to a real store."""

from __future__ import annotations

import asyncio

import pytest

from nebula_core import desired
from nebula_core.errors import InvalidModelRequest, UnknownModel
from nebula_core.interfaces import MAX_OPERATIONS, Put
from nebula_core.store import codec, keys
from nebula_core.testing.engines import FakeEngine
from nebula_core.testing.requests import ENGINES, request, stored
from nebula_core.types import ModelRequest

NOW = 1_700_000_000.0


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
        ({"min_replicas": -1}, "min_replicas: Input should be greater than or equal to 0"),
        ({"max_replicas": -1}, "max_replicas: Input should be greater than or equal to 0"),
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


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"min_replicas": 3, "max_replicas": 2, "replicas": 3}, r'the model "m": min_replicas \(3\) is above max_replicas \(2\)'),
        ({"min_replicas": -1}, 'the model "m": min_replicas must lie between 0 and 10000, got -1'),
        ({"replicas": -2}, 'the model "m": replicas must lie between 0 and 10000, got -2'),
    ],
)
def test_numbers_that_were_written_by_hand_are_checked_too(numbers, message):
    with pytest.raises(InvalidModelRequest, match=message):
        desired.check_numbers(ModelRequest(model_uid="m", engine="fake", **numbers))


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


async def test_a_model_that_is_asked_for_twice_at_once_is_refused_by_its_name(store):
    with pytest.raises(InvalidModelRequest, match='the model "b" is asked for twice; a model_uid may stand in one table only'):
        await desired.apply(store, [request("a"), request("b"), request("b", replicas=2)], NOW)
    assert await stored(store, "a") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            b"garbage",
            "/model_requests/m cannot be read: this is not a ModelRequest: .*; load the model anew, which replaces it, or unload it",
        ),
        (
            codec.encode(ModelRequest(model_uid="n", engine="fake")),
            '/model_requests/m holds a request for the model "n"; load the model anew',
        ),
    ],
)
async def test_a_request_that_somebody_broke_by_hand_is_told_and_mended_by_loading_or_unloading(store, value, message):
    for mend in (desired.apply(store, [request(replicas=2)], NOW), desired.unload(store, "m")):
        await store.transact([Put(keys.model_request("m"), value)])
        for call in (desired.scale(store, ENGINES, "m", {"replicas": 1}), desired.rollback(store, ENGINES, "m")):
            with pytest.raises(InvalidModelRequest, match=message):
                await call
        await mend
    assert await stored(store) is None


async def test_what_cannot_be_read_is_nothing_to_go_back_to(store):
    await desired.apply(store, [request(context=1)], NOW)
    await desired.apply(store, [request(context=2)], NOW)
    await store.transact([Put(keys.earlier_request("m"), b"garbage")])
    with pytest.raises(InvalidModelRequest, match="has nothing to go back to"):
        await desired.rollback(store, ENGINES, "m")


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


async def test_bounds_that_contradict_each_other_are_refused_when_scaling_too(store):
    await desired.apply(store, [request(min_replicas=2)], NOW)
    with pytest.raises(InvalidModelRequest, match=r"min_replicas \(2\) is above max_replicas \(1\)"):
        await desired.scale(store, ENGINES, "m", {"max_replicas": 1})


async def test_an_unknown_model_is_answered_with_the_known_ones(store):
    await desired.apply(store, [request("a"), request("b")], NOW)
    for call in (desired.unload(store, "c"), desired.scale(store, ENGINES, "c", {"replicas": 1}), desired.rollback(store, ENGINES, "c")):
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
