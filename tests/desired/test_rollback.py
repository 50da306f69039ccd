"""Model requests that go back to what was asked for before, on a real store."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from nebula_core import desired
from nebula_core.errors import InvalidModelRequest
from nebula_core.interfaces import MAX_OPERATIONS, Put
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.testing.requests import ENGINES, request, stored

NOW = 1_700_000_000.0


NOTHING = 'the model "m" has nothing to go back to: it was loaded as it is, and only scaled since'


async def test_a_rollback_goes_back_to_the_arguments_before_and_another_one_undoes_it(store):
    await desired.apply(store, [request(context=1, aliases=["x"])], NOW)
    await desired.apply(store, [request(context=2)], NOW + 9)
    for context, aliases in ((1, ("x",)), (2, ()), (1, ("x",))):
        rolled = await desired.rollback(store, ENGINES, "m")
        assert rolled == await stored(store)
        assert (rolled.engine_args, rolled.aliases, rolled.created) == ({"context": context}, aliases, int(NOW))


async def test_what_was_scaled_stays_so_over_a_rollback(store):
    await desired.apply(store, [request(context=1)], NOW)
    await desired.apply(store, [request(context=2, replicas=2)], NOW)
    await desired.scale(store, ENGINES, "m", {"replicas": 3, "max_replicas": 5})
    rolled = await desired.rollback(store, ENGINES, "m")
    assert (rolled.engine_args, rolled.replicas, rolled.max_replicas) == ({"context": 1}, 3, 5)


async def test_neither_the_same_once_more_nor_scaling_is_what_a_rollback_goes_back_to(store):
    await desired.apply(store, [request(context=1)], NOW)
    await desired.apply(store, [request(context=2)], NOW)
    await desired.apply(store, [request(context=2)], NOW)
    await desired.apply(store, [request(context=2, replicas=4, min_replicas=1, max_replicas=6)], NOW)
    await desired.scale(store, ENGINES, "m", {"replicas": 3})
    assert (await desired.rollback(store, ENGINES, "m")).engine_args == {"context": 1}


async def test_a_model_whose_arguments_never_changed_has_nothing_to_go_back_to(store):
    await desired.apply(store, [request()], NOW)
    await desired.scale(store, ENGINES, "m", {"replicas": 3})
    with pytest.raises(InvalidModelRequest, match=NOTHING):
        await desired.rollback(store, ENGINES, "m")


async def test_what_was_asked_before_goes_with_the_model(store):
    await desired.apply(store, [request(context=1)], NOW)
    await desired.apply(store, [request(context=2)], NOW)
    await desired.unload(store, "m")
    assert await store.get(keys.earlier_request("m")) is None
    await desired.apply(store, [request(context=3)], NOW)
    with pytest.raises(InvalidModelRequest, match=NOTHING):
        await desired.rollback(store, ENGINES, "m")


async def test_as_many_models_can_be_changed_at_once_as_can_be_loaded_and_each_can_be_rolled_back(store):
    for context in (1, 2):
        await desired.apply(store, [request(f"m{number}", context=context) for number in range(MAX_OPERATIONS)], NOW)
    for name in ("m0", f"m{MAX_OPERATIONS - 1}"):
        assert (await desired.rollback(store, ENGINES, name)).engine_args == {"context": 1}


async def test_a_rollback_to_what_cannot_be_followed_any_more_changes_nothing(store):
    await desired.apply(store, [request(aliases=["x"])], NOW)
    await desired.apply(store, [request()], NOW)
    await desired.apply(store, [request("n", aliases=["x"])], NOW)
    with pytest.raises(InvalidModelRequest, match='the name "x" is used by two models'):
        await desired.rollback(store, ENGINES, "m")
    with pytest.raises(InvalidModelRequest, match='the engine "fake" is not installed'):
        await desired.rollback(store, {}, "m")
    assert (await stored(store)).aliases == ()


async def test_fields_of_a_newer_nebula_go_and_come_back_with_their_request(store):
    await store.transact([Put(keys.model_request("m"), codec.encode(request(context=1))[:-1] + b',"color":"green"}')])
    await desired.apply(store, [request(context=2)], NOW)
    await desired.rollback(store, ENGINES, "m")
    assert b'"color":"green"' in (await store.get(keys.model_request("m"))).value


async def test_a_rollback_beside_other_writers_loses_neither(store):
    await desired.apply(store, [request(context=1)], NOW)
    await desired.apply(store, [request(context=2)], NOW)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(desired.rollback(store, ENGINES, "m"))
        tasks.create_task(desired.scale(store, ENGINES, "m", {"replicas": 3}))
    assert ((await stored(store)).replicas, (await stored(store)).engine_args) == (3, {"context": 1})


async def test_a_change_in_the_middle_of_a_rollback_is_what_is_taken_back(tmp_path):
    class Changing(EmbeddedStore):
        """The arguments change just after all requests were listed."""

        changes = 0

        async def get(self, key):
            if key.startswith(keys.EARLIER_REQUESTS) and not self.changes:
                self.changes += 1
                await desired.apply(self, [request(context=2)], NOW)
            return await super().get(key)

    async with Changing(tmp_path, EmbeddedSettings(), time.monotonic, logging.getLogger("test")) as store:
        await desired.apply(store, [request(context=1)], NOW)
        assert (await desired.rollback(store, ENGINES, "m")).engine_args == {"context": 1}
        assert store.changes == 1


async def test_of_a_change_that_was_written_half_way_there_is_nothing_to_take_back(store):
    await desired.apply(store, [request(context=1)], NOW)
    await store.transact([Put(keys.earlier_request("m"), (await store.get(keys.model_request("m"))).value)])
    with pytest.raises(InvalidModelRequest, match=NOTHING):
        await desired.rollback(store, ENGINES, "m")
