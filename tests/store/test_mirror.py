"""A mirror follows the store, outlives it, and tells what changed."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.background import background
from nebula_core.interfaces import Delete, Put
from nebula_core.store import keys
from nebula_core.store.codec import encode
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import Changes, Mirror, following, pause_s
from nebula_core.testing.store import DEADLINE_S, put, until
from nebula_core.types import GatewayStatus, PlacementPlan

LOGGER = logging.getLogger("test")
PREFIXES = (keys.PLACEMENTS, keys.NODES)


def embedded(folder: Path, **settings: int) -> EmbeddedStore:
    return EmbeddedStore(folder, EmbeddedSettings(**settings), time.monotonic, LOGGER)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with embedded(tmp_path) as store:
        yield store


def plan(model_uid: str, version: int) -> bytes:
    return encode(PlacementPlan(model_uid=model_uid, plan_version=version))


async def all_of(changes: Changes, wanted: set[str]) -> set[str]:
    seen: set[str] = set()
    async with asyncio.timeout(DEADLINE_S):
        while not wanted <= seen:
            seen |= await changes.wait()
    return seen


async def test_it_starts_with_what_is_there_and_follows(store: EmbeddedStore):
    await put(store, keys.placement("a"), plan("a", 1))
    async with following(store, PREFIXES, LOGGER) as mirror:
        assert mirror.connected
        assert mirror.get(keys.placement("a"), PlacementPlan) == PlacementPlan(model_uid="a", plan_version=1)
        changes = mirror.subscribe()
        await store.transact([Delete(keys.placement("a")), Put(keys.placement("b"), plan("b", 7))])
        assert await all_of(changes, {keys.placement("b")}) == {keys.placement("a"), keys.placement("b")}
        assert {key: value.plan_version for key, value in mirror.values(keys.PLACEMENTS, PlacementPlan).items()} == {keys.placement("b"): 7}
        assert mirror.entry(keys.placement("a")) is None


async def test_values_may_be_asked_for_under_a_narrower_prefix(store: EmbeddedStore):
    for uid in ("b", "a/x", "a"):
        await put(store, keys.placement(uid), plan(uid, 1))
    async with following(store, PREFIXES, LOGGER) as mirror:
        assert [value.model_uid for value in mirror.values(keys.PLACEMENTS + "a", PlacementPlan).values()] == ["a", "a/x"]


async def test_a_key_outside_its_prefixes_is_a_mistake_of_the_asker(store: EmbeddedStore):
    async with following(store, PREFIXES, LOGGER) as mirror:
        with pytest.raises(ValueError, match=r"/seeds/x is not mirrored here, only /placements/, /nodes/"):
            mirror.entry(keys.seed("x"))
    with pytest.raises(ValueError, match="begins with another"):
        Mirror(store, ["/nodes/", "/nodes/a"], LOGGER)


async def test_a_value_that_cannot_be_read_is_left_out_and_logged_once(store: EmbeddedStore, caplog: pytest.LogCaptureFixture):
    await put(store, keys.placement("bad"), b"not json")
    await put(store, keys.placement("good"), plan("good", 1))
    async with following(store, PREFIXES, LOGGER) as mirror:
        for _ in range(3):
            assert list(mirror.values(keys.PLACEMENTS, PlacementPlan)) == [keys.placement("good")]
            assert mirror.get(keys.placement("bad"), PlacementPlan) is None
        assert caplog.text.count("/placements/bad") == 1
        changes = mirror.subscribe()
        await put(store, keys.placement("bad"), plan("bad", 2))
        await all_of(changes, {keys.placement("bad")})
        assert mirror.get(keys.placement("bad"), PlacementPlan) is not None


async def test_an_unchanged_value_is_decoded_once(store: EmbeddedStore):
    await put(store, keys.placement("a"), plan("a", 1))
    async with following(store, PREFIXES, LOGGER) as mirror:
        first = mirror.get(keys.placement("a"), PlacementPlan)
        assert mirror.get(keys.placement("a"), PlacementPlan) is first
        assert mirror.get(keys.placement("a"), GatewayStatus) is None


async def test_the_applied_revision_of_a_prefix_moves_with_that_prefix_alone(store: EmbeddedStore):
    async with following(store, PREFIXES, LOGGER) as mirror:
        before = mirror.applied(keys.PLACEMENTS)
        node = await put(store, keys.node("n"), b"")
        await until(lambda: mirror.applied(keys.NODES) == node)
        assert mirror.applied(keys.PLACEMENTS) == before
        assert mirror.revision == node
        placed = await put(store, keys.placement("a"), plan("a", 1))
        await until(lambda: mirror.applied(keys.PLACEMENTS) == placed)
        assert mirror.entry(keys.placement("a")) is not None


async def test_contents_stand_while_the_store_is_gone_and_catch_up_when_it_returns(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    first = await embedded(tmp_path).__aenter__()
    lease = await first.grant(60)
    await first.transact([Put(keys.placement("a"), plan("a", 1)), Put(keys.placement("b"), plan("b", 1)), Put(keys.node("n"), b"", lease)])
    mirror = Mirror(first, PREFIXES, LOGGER)
    changes = mirror.subscribe()
    async with background(mirror.run()):
        await mirror.wait_synced()
        await all_of(changes, {keys.placement("a"), keys.placement("b"), keys.node("n")})
        await first.__aexit__()
        await until(lambda: not mirror.connected)
        assert set(mirror.values(keys.PLACEMENTS, PlacementPlan)) == {keys.placement("a"), keys.placement("b")}
        async with embedded(tmp_path) as between:
            await between.transact([Delete(keys.placement("a")), Put(keys.placement("c"), plan("c", 1))])
        async with first:
            changed = await all_of(changes, {keys.placement("a"), keys.placement("c"), keys.node("n")})
            await until(lambda: mirror.connected)
            assert set(mirror.values(keys.PLACEMENTS, PlacementPlan)) == {keys.placement("b"), keys.placement("c")}
            assert keys.placement("b") not in changed
            assert mirror.entry(keys.node("n")) is None
            assert caplog.text.count("the store is gone") == 1
            assert caplog.text.count("the store answers again") == 1


async def test_a_first_start_without_the_store_says_once_that_it_does_not_answer_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = embedded(tmp_path)
    mirror = Mirror(store, PREFIXES, LOGGER)
    async with background(mirror.run()):
        await until(lambda: "the store does not answer yet" in caplog.text)
        async with store, asyncio.timeout(DEADLINE_S):
            await mirror.wait_synced()
            assert mirror.connected
            assert caplog.text.count("the store") == 1


async def test_a_mirror_that_fell_behind_lists_again_and_misses_nothing(tmp_path: Path):
    async with embedded(tmp_path, history_events=5) as store, following(store, PREFIXES, LOGGER) as mirror:
        changes = mirror.subscribe()
        writes = [Put(keys.placement(f"m{number}"), plan("m", number)) for number in range(50)]
        async with asyncio.TaskGroup() as tasks:
            for write in writes:
                tasks.create_task(store.transact([write]))
        assert await all_of(changes, {write.key for write in writes}) == {write.key for write in writes}
        assert len(mirror.values(keys.PLACEMENTS, PlacementPlan)) == 50


async def test_subscribers_are_told_independently_and_each_key_once(store: EmbeddedStore):
    async with following(store, PREFIXES, LOGGER) as mirror:
        one, other = mirror.subscribe(), mirror.subscribe()
        for version in range(3):
            last = await put(store, keys.placement("a"), plan("a", version))
        await until(lambda: mirror.applied(keys.PLACEMENTS) == last)
        assert await one.wait() == {keys.placement("a")}
        assert await one.wait(timeout_s=0.01) == set()
        assert await other.wait() == {keys.placement("a")}


async def test_a_wait_for_changes_that_was_given_up_loses_none(store: EmbeddedStore):
    async with following(store, PREFIXES, LOGGER) as mirror:
        changes = mirror.subscribe()
        waiting = asyncio.ensure_future(changes.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await put(store, keys.placement("a"), plan("a", 1))
        assert await all_of(changes, {keys.placement("a")}) == {keys.placement("a")}


async def test_a_subscriber_that_nobody_holds_is_forgotten(store: EmbeddedStore):
    async with following(store, PREFIXES, LOGGER) as mirror:
        subscriber = weakref.ref(mirror.subscribe())
        gc.collect()
        assert subscriber() is None


async def test_an_error_of_the_body_leaves_following_as_it_is(store: EmbeddedStore):
    with pytest.raises(KeyError):
        async with following(store, PREFIXES, LOGGER):
            raise KeyError("mine")


async def test_work_in_the_background_that_fails_ends_the_body():
    async def fail() -> None:
        raise OSError("mine")

    with pytest.raises(ExceptionGroup) as failed:
        async with background(fail()):
            await asyncio.sleep(DEADLINE_S)
    assert failed.group_contains(OSError, match="mine")


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pauses_grow_from_a_fifth_of_a_second_to_five_and_are_spread(failures: int, chance: float):
    assert 0.1 <= pause_s(failures, chance) <= 5.0
    assert pause_s(failures, chance) <= pause_s(failures + 1, chance)
    assert pause_s(failures, 0) * 2 == pause_s(failures, 1)
