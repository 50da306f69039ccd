"""Model requests of a settings file, and what became of them since, on a real store."""

from __future__ import annotations

from nebula_core import desired
from nebula_core.seeding import Seeded, seed
from nebula_core.store import keys
from nebula_core.testing.requests import ENGINES, request, stored

NOW = 1_700_000_000.0


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


async def test_a_rollback_is_not_undone_by_a_start_with_the_same_table(store):
    for context in (1, 2):
        await seed(store, "host", [request(context=context)], NOW)
    await desired.rollback(store, ENGINES, "m")
    assert await seed(store, "host", [request(context=2)], NOW) == Seeded({})
    assert (await stored(store)).engine_args == {"context": 1}
    assert (await seed(store, "host", [request(context=3)], NOW)).applied == {"m": "updated"}
    assert (await desired.rollback(store, ENGINES, "m")).engine_args == {"context": 1}


async def test_a_rollback_of_a_table_that_was_applied_by_hand_is_not_undone_by_the_next_start_with_it(store):
    await seed(store, "host", [request(context=1)], NOW)
    await desired.apply(store, [request(context=2)], NOW)  # as `nebula apply` does with the changed file
    await desired.rollback(store, ENGINES, "m")
    await desired.scale(store, ENGINES, "m", {"replicas": 3})
    assert await seed(store, "host", [request(context=2)], NOW) == Seeded({}, rolled_back=("m",))
    assert await seed(store, "host", [request(context=2)], NOW) == Seeded({})
    assert ((await stored(store)).engine_args, (await stored(store)).replicas) == ({"context": 1}, 3)


async def test_what_was_rolled_back_comes_in_again_when_it_is_applied_anew(store):
    for context in (1, 2):
        await seed(store, "host", [request(context=context)], NOW)
    await desired.rollback(store, ENGINES, "m")
    assert await desired.apply(store, [request(context=1)], NOW) == {"m": "unchanged"}
    assert await desired.apply(store, [request(context=2)], NOW) == {"m": "updated"}
    assert (await seed(store, "host", [request(context=1)], NOW)).applied == {"m": "updated"}


async def test_a_table_that_goes_back_by_itself_is_applied(store):
    for context in (1, 2, 1):
        assert (await seed(store, "host", [request(context=context)], NOW)).applied
        assert (await stored(store)).engine_args == {"context": context}


async def test_a_vanished_table_takes_a_model_with_it_that_was_rolled_back_to_it(store):
    await seed(store, "host", [request(context=1)], NOW)
    await desired.apply(store, [request(context=2)], NOW)
    await desired.rollback(store, ENGINES, "m")
    assert (await seed(store, "host", [], NOW)).deleted == ("m",)


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


async def test_a_vanished_table_takes_what_was_asked_before_with_it(store):
    for context in (1, 2):
        await seed(store, "host", [request(context=context)], NOW)
    assert (await seed(store, "host", [], NOW)).deleted == ("m",)
    assert await store.get(keys.earlier_request("m")) is None


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
