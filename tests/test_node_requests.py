"""What operators ask of nodes, written on a real store."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from nebula_core.errors import InvalidNodeRequest
from nebula_core.interfaces import Put
from nebula_core.node_requests import ask, changed
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.types import NodeRequest, NodeStatus

NOTHING = NodeRequest(node_id="a")
ALL = NodeRequest(node_id="a", cordoned=True, drained=True, given_up=True)


@pytest.fixture
async def store(tmp_path):
    async with EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logging.getLogger("test")) as store:
        yield store


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (NOTHING, {"cordoned": True}, NodeRequest(node_id="a", cordoned=True)),
        (NOTHING, {"drained": True}, NodeRequest(node_id="a", cordoned=True, drained=True)),
        (NOTHING, {"given_up": True}, NodeRequest(node_id="a", cordoned=True, given_up=True)),
        (ALL, {"cordoned": True}, ALL),
        (ALL, {"drained": False}, NodeRequest(node_id="a", cordoned=True, given_up=True)),
        (ALL, {"cordoned": False}, NOTHING),
        (ALL, {"cordoned": False, "drained": False}, NOTHING),
    ],
)
def test_what_follows_from_a_wish_is_asked_with_it(before, changes, after):
    assert changed(before, changes) == after


@pytest.mark.parametrize("more", ["drained", "given_up"])
def test_wishes_that_contradict_each_other_are_refused(more):
    with pytest.raises(InvalidNodeRequest, match=f'the node "a": what is {more} gets nothing new'):
        changed(NOTHING, {"cordoned": False, more: True})


async def test_a_node_of_which_nothing_is_asked_leaves_no_key_behind(store):
    await ask(store, "a", {"drained": True})
    assert await store.get(keys.node_request("a")) is not None
    await ask(store, "a", {"cordoned": False})
    assert await store.get(keys.node_request("a")) is None
    assert await ask(store, "a", {"cordoned": False}) == NOTHING


async def test_a_node_that_is_up_is_not_given_up(store):
    await store.transact([Put(keys.node("a"), codec.encode(NodeStatus(node_id="a", address="h")))])
    with pytest.raises(InvalidNodeRequest, match='"a" is up, and only one that is missing can be given up; drain it instead'):
        await ask(store, "a", {"given_up": True})


async def test_wishes_at_the_same_moment_are_all_kept(store):
    async with asyncio.TaskGroup() as tasks:
        for wish in ("cordoned", "drained", "given_up"):
            tasks.create_task(ask(store, "a", {wish: True}))
    assert codec.decode(NodeRequest, (await store.get(keys.node_request("a"))).value) == ALL


async def test_fields_of_a_newer_nebula_are_kept(store):
    await store.transact([Put(keys.node_request("a"), codec.encode(NOTHING)[:-1] + b',"reason":"new fans"}')])
    await ask(store, "a", {"drained": True})
    assert b'"reason":"new fans"' in (await store.get(keys.node_request("a"))).value


async def test_fields_of_a_newer_nebula_outlive_an_uncordon(store):
    await store.transact([Put(keys.node_request("a"), codec.encode(ALL)[:-1] + b',"reason":"new fans"}')])
    assert await ask(store, "a", {"cordoned": False}) == NOTHING
    kept = (await store.get(keys.node_request("a"))).value
    assert b'"reason":"new fans"' in kept
    assert codec.decode(NodeRequest, kept) == NOTHING


async def test_a_node_that_comes_up_while_it_is_given_up_is_not(tmp_path):
    class Returning(EmbeddedStore):
        """The node comes up just before the first transaction."""

        returned = False

        async def transact(self, writes, conditions=()):
            if not self.returned:
                self.returned = True
                await super().transact([Put(keys.node("a"), codec.encode(NodeStatus(node_id="a", address="h")))])
            return await super().transact(writes, conditions)

    async with Returning(tmp_path, EmbeddedSettings(), time.monotonic, logging.getLogger("test")) as store:
        with pytest.raises(InvalidNodeRequest, match='"a" is up'):
            await ask(store, "a", {"given_up": True})


@pytest.mark.parametrize("value", [b"garbage", b'{"node_id": "b", "cordoned": "perhaps"}'])
async def test_what_somebody_broke_by_hand_is_written_over_or_taken_away(store, value):
    for wish, after in ({"drained": True}, NodeRequest(node_id="a", cordoned=True, drained=True)), ({"cordoned": False}, NOTHING):
        await store.transact([Put(keys.node_request("a"), value)])
        assert await ask(store, "a", wish) == after
