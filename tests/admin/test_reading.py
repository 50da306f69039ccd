"""A process that follows little of the store shows the whole fleet all the same, and asks the store for it as seldom as it may."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nebula_core.admin.reading import Reader
from nebula_core.errors import StoreUnavailable
from nebula_core.interfaces import Put
from nebula_core.node.observe import PREFIXES as NODE_PREFIXES
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedStore
from nebula_core.store.mirror import Mirror
from nebula_core.testing.polling import eventually
from nebula_core.types import Assignment, EndpointStats, NodeStatus, PlacementPlan, ReplicaSpec

logger = logging.getLogger("test")

TABLE = {"engine": "fake", "replicas": 2}
ASSIGNMENT = Assignment(replica_id="0", node_id="far", spec=ReplicaSpec(model_uid="m", engine="fake"), assignment_version="v")


async def shown(node, part):
    """The status, once there is something in that part of it."""

    async def look():
        status = (await node.http.get("/admin/v1/status")).json()
        return status if status[part] else None

    return await eventually(look, 5)


class AskedStore(EmbeddedStore):
    """Counts listings; `mood` says what becomes of them."""

    listings = 0
    mood = ""

    async def list(self, prefix):
        self.listings += 1
        if self.mood == "gone":
            raise StoreUnavailable("connection refused")
        if self.mood == "mute":
            await asyncio.Event().wait()
        return await super().list(prefix)


@pytest.fixture
async def node(serve_admin):
    """The admin API of a lone node."""
    async with serve_admin(followed=NODE_PREFIXES, store_type=AskedStore) as node:
        yield node


async def test_a_lone_node_shows_the_fleet(node):
    writes = [
        Put(keys.node("far"), codec.encode(NodeStatus(node_id="far", address="10.0.0.1"))),
        Put(keys.SCHEDULER_LEADER, b"host:1", await node.store.grant(30)),
        Put(keys.stats("m", "0"), codec.encode(EndpointStats(running=3))),
        Put(keys.node("foreign"), b"not ours at all"),
    ]
    await node.store.transact(writes)
    status = (await node.http.get("/admin/v1/status")).json()
    assert [each["node_id"] for each in status["nodes"]] == ["far"]
    assert (status["scheduler"], status["store"]["connected"]) == ("host:1", True)


async def test_who_writes_through_a_lone_node_and_then_looks_sees_it(node):
    for replicas in (1, 2, 3):
        assert (await node.http.put("/admin/v1/models/org/m", json={**TABLE, "replicas": replicas})).is_success
        assert (await node.http.get("/admin/v1/models/org/m")).json()["wanted"] == replicas
    await node.http.delete("/admin/v1/models/org/m")
    assert (await node.http.get("/admin/v1/models/org/m")).status_code == 404


async def test_a_silent_store_leaves_what_was_last_known_and_since_when(node):
    await node.http.put("/admin/v1/models/org/m", json=TABLE)
    before = (await node.http.get("/admin/v1/status")).json()
    node.store.mood = "gone"
    await node.view.caught_up("org/m")  # the next look asks the store again
    status = (await node.http.get("/admin/v1/status")).json()
    assert status["models"] == before["models"] != []
    assert status["store"]["connected"] is False
    assert before["store"]["read_at"] == status["store"]["read_at"] < status["store"]["silent_since"]


async def test_what_was_never_read_is_named_and_nothing_is_concluded_from_it(node):
    node.store.mood = "gone"
    plan = PlacementPlan(model_uid="m", plan_version=1, assignments=(ASSIGNMENT,))
    await node.store.transact([Put(keys.placement("m"), codec.encode(plan))])
    (model,) = (await shown(node, "models"))["models"]
    assert (model["state"], model["reasons"], model["wanted"]) == ("starting", [], 1)
    status = await shown(node, "models")
    assert (status["nodes"], status["store"]["connected"], "/nodes/" in status["store"]["never_read"]) == ([], False, True)


async def test_a_store_that_does_not_answer_is_a_503_that_names_it_where_old_values_would_mislead(node):
    node.store.mood = "gone"
    answer = await node.http.get("/admin/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert 'the store "embedded" ([store] use) does not answer: connection refused' in answer.json()["error"]["message"]
    assert (await node.http.get("/health")).status_code == 200


async def test_many_who_ask_within_a_second_cost_one_listing(node):
    now = [0.0]
    reader = Reader(node.store, node.view.mirror, NODE_PREFIXES, [*NODE_PREFIXES, keys.STATS, keys.NODES], "lab", lambda: now[0])
    node.store.listings = 0
    await asyncio.gather(*(reader.picture() for _ in range(20)))
    now[0] = 0.9
    await reader.picture()
    assert node.store.listings == 2
    await node.store.transact([Put(keys.node("new"), codec.encode(NodeStatus(node_id="new", address="")))])
    assert (await reader.picture()).entry(keys.node("new")) is None
    now[0] = 1.0
    assert (await reader.picture()).entry(keys.node("new"))
    assert node.store.listings == 4


async def test_all_who_ask_a_silent_store_are_told_together(node):
    node.store.mood = "mute"
    reader = Reader(node.store, node.view.mirror, NODE_PREFIXES, [keys.STATS], "lab", patience_s=0.1)
    node.store.listings = 0
    answers = await asyncio.gather(*(reader.picture() for _ in range(20)), return_exceptions=True)
    assert (await reader.last_picture()).silence == str(answers[0])
    assert {str(answer) for answer in answers} == {'the store "lab" ([store] use) did not answer within 0.1 s'}
    assert node.store.listings == 1


async def test_where_nothing_was_ever_known_a_silent_store_is_a_refusal(node):
    node.store.mood = "gone"
    reader = Reader(node.store, Mirror(node.store, NODE_PREFIXES, logger), NODE_PREFIXES, [keys.STATS], "lab")
    with pytest.raises(StoreUnavailable, match=r'the store "lab" .* does not answer: connection refused'):
        await reader.last_picture()
