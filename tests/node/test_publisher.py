"""What a node says of itself reaches the store, however much it is, in order, and however badly the store answers."""

from __future__ import annotations

import logging
import time

import msgspec
import pytest

from nebula_core.errors import LeaseLost, StoreUnavailable
from nebula_core.interfaces import MAX_OPERATIONS, Delete, Put
from nebula_core.node.publisher import Publisher
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.types import READY, EndpointInfo, EndpointStats, NodeStatus

logger = logging.getLogger("test")
NODE = keys.node("n")
ENDPOINT, STATS = keys.endpoint("m", "0"), keys.stats("m", "0")


class TardyStore(EmbeddedStore):
    """A store that can be told to give no answer to the next transaction, which lands later; it counts transactions."""

    is_tardy = False
    transactions = 0

    async def transact(self, writes, conditions=()):
        self.transactions += 1
        if self.is_tardy:
            self.is_tardy = False
            self.late = writes, conditions
            raise StoreUnavailable("no answer in time")
        return await super().transact(writes, conditions)

    async def land(self):
        """What had no answer arrives."""
        return await super().transact(*self.late)

    async def value(self, key, type_):
        entry = await self.get(key)
        return None if entry is None else codec.decode(type_, entry.value)

    async def put(self, key, value, lease=None):
        return await self.transact([Put(key, codec.encode(value), lease)])


@pytest.fixture
async def store(tmp_path):
    async with TardyStore(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store:
        yield store


@pytest.fixture
def publisher(store):
    return Publisher(store, "n", logger)


def endpoint(number=0, **fields):
    given = {"node_id": "n", "incarnation": 1, **fields}
    return EndpointInfo(model_uid="m", replica_id=str(number), assignment_version="v", engine="fake", **given)


def status(**fields):
    return {NODE: NodeStatus(node_id="n", address="here", **fields)}


async def test_more_than_a_transaction_holds_is_written_all_the_same_the_node_first(store, publisher):
    values = {}
    for number in range(MAX_OPERATIONS):
        values[keys.endpoint("m", str(number))] = endpoint(number)
        values[keys.stats("m", str(number))] = EndpointStats(running=number)
    assert await publisher.publish(values, status(), await store.grant(60))
    entries = {entry.key: entry.mod_revision for entry in (await store.list("")).entries}
    assert entries.keys() == {*values, NODE}
    assert entries[NODE] == min(entries.values())
    for number in range(MAX_OPERATIONS):
        assert entries[keys.endpoint("m", str(number))] == entries[keys.stats("m", str(number))]


async def test_what_changes_in_a_heartbeat_is_one_transaction_and_an_older_sample_is_no_change(store, publisher):
    lease = await store.grant(60)
    await publisher.publish({ENDPOINT: endpoint(), STATS: EndpointStats(running=1)}, status(), lease)
    before = store.transactions
    assert await publisher.publish({ENDPOINT: endpoint(), STATS: EndpointStats(running=1, age_s=9.0)}, status(), lease)
    assert store.transactions == before
    values = {ENDPOINT: endpoint(state=READY), STATS: EndpointStats(running=2)}
    assert await publisher.publish(values, status(replicas=("m/0",)), lease)
    assert store.transactions == before + 1


@pytest.mark.parametrize("lands", ["before", "after"])
async def test_a_write_that_lands_late_never_brings_back_what_a_later_one_replaced(store, publisher, lands):
    lease = await store.grant(60)
    await publisher.publish({STATS: EndpointStats(running=1)}, status(), lease)
    store.is_tardy = True
    assert not await publisher.publish({STATS: EndpointStats(running=2)}, status(hostname="two"), lease)
    if lands == "before":
        assert await store.land()
    assert await publisher.publish({STATS: EndpointStats(running=3)}, status(hostname="three"), lease)
    if lands == "after":
        assert await store.land() is None
    assert (await store.value(STATS, EndpointStats)).running == 3
    assert (await store.value(NODE, NodeStatus)).hostname == "three"


async def test_what_an_earlier_daemon_left_is_replaced_or_removed(store, publisher):
    await store.put(ENDPOINT, endpoint(state=READY))
    await store.put(STATS, EndpointStats(running=7))
    assert await publisher.publish({ENDPOINT: endpoint(incarnation=2), STATS: None}, {}, "")
    assert (await store.value(ENDPOINT, EndpointInfo)).incarnation == 2
    assert await store.get(STATS) is None


async def test_fields_of_a_newer_nebula_survive_a_rewrite(store, publisher):
    newer = {**msgspec.to_builtins(endpoint()), "added_later": 5}
    await store.transact([Put(ENDPOINT, msgspec.json.encode(newer))])
    assert await publisher.publish({ENDPOINT: endpoint(state=READY)}, {}, "")
    assert msgspec.json.decode((await store.get(ENDPOINT)).value)["added_later"] == 5


async def test_an_endpoint_that_has_moved_to_another_node_is_left_to_it(store, publisher):
    assert await publisher.publish({ENDPOINT: endpoint(), STATS: EndpointStats(running=1)}, {}, "")
    theirs = endpoint(node_id="other", incarnation=2, state=READY)
    await store.put(ENDPOINT, theirs)
    for gone in (endpoint(state="draining"), None):
        assert await publisher.publish({ENDPOINT: gone, STATS: None}, {}, "")
        assert await store.value(ENDPOINT, EndpointInfo) == theirs
    assert await publisher.publish({ENDPOINT: endpoint(incarnation=3)}, {}, "")
    assert (await store.value(ENDPOINT, EndpointInfo)).node_id == "n"


@pytest.mark.parametrize("write", [Delete(ENDPOINT), Put(ENDPOINT, codec.encode(endpoint(url="http://elsewhere"))), Put(ENDPOINT, b"[]")])
async def test_what_somebody_else_wrote_over_an_endpoint_is_mended_once_it_is_seen(store, publisher, write):
    ours, lease = {ENDPOINT: endpoint(url="http://here")}, await store.grant(60)
    await publisher.publish(ours, status(), lease)
    await store.transact([write])
    entry = await store.get(ENDPOINT)
    publisher.see({ENDPOINT: entry.mod_revision if entry else 0})
    assert await publisher.publish(ours, status(), lease)
    assert (await store.value(ENDPOINT, EndpointInfo)).url == "http://here"


async def test_to_see_its_own_write_costs_nothing(store, publisher):
    ours, lease = {ENDPOINT: endpoint(url="http://here")}, await store.grant(60)
    await publisher.publish(ours, status(), lease)
    publisher.see({ENDPOINT: (await store.get(ENDPOINT)).mod_revision})
    before = store.transactions
    assert await publisher.publish(ours, status(), lease)
    assert store.transactions == before


async def test_to_see_what_it_wrote_before_its_last_write_costs_nothing(store, publisher):
    """What is seen lags behind: to take that for somebody else's doing, and write again, would never end."""
    lease = await store.grant(60)
    await publisher.publish({ENDPOINT: endpoint(url="http://here")}, status(), lease)
    late = (await store.get(ENDPOINT)).mod_revision
    ours = {ENDPOINT: endpoint(url="http://there")}
    await publisher.publish(ours, status(), lease)
    before = store.transactions
    for seen in (late, 0):
        publisher.see({ENDPOINT: seen})
        assert await publisher.publish(ours, status(), lease)
    assert store.transactions == before


async def test_under_a_new_lease_the_heartbeat_is_written_anew(store, publisher):
    first, second = await store.grant(60), await store.grant(60)
    await publisher.publish({STATS: EndpointStats(running=1)}, status(), first)
    await store.revoke(first)
    with pytest.raises(LeaseLost):
        await publisher.publish({STATS: EndpointStats(running=2)}, status(hostname="h"), first)
    before = store.transactions
    assert await publisher.publish({STATS: EndpointStats(running=2)}, status(hostname="h"), second)
    assert store.transactions == before + 1
    assert (await store.value(NODE, NodeStatus)).hostname == "h"


async def test_a_heartbeat_that_somebody_deleted_is_back_with_the_next_write(store, publisher, caplog):
    lease = await store.grant(60)
    await publisher.publish({STATS: EndpointStats(running=1)}, status(), lease)
    await store.transact([Delete(NODE)])
    assert await publisher.publish({STATS: EndpointStats(running=2)}, status(), lease)
    assert await store.get(NODE)
    assert "two nodes" not in caplog.text


async def test_two_nodes_of_one_name_are_told_so_once(store, publisher, caplog):
    namesake = Publisher(store, "n", logger)
    leases = await store.grant(60), await store.grant(60)
    for running in range(3):
        await publisher.publish({STATS: EndpointStats(running=running)}, status(hostname="one"), leases[0])
        await namesake.publish({}, status(hostname="two", replicas=(str(running),)), leases[1])
    told = 'two nodes are called "n": the other runs on the host two, at here; give one of them another name, `[node] name`'
    assert [record.message for record in caplog.records if "host two" in record.message] == [told]


async def test_its_own_write_that_lands_late_is_no_other_node(store, publisher, caplog):
    lease = await store.grant(60)
    await publisher.publish({STATS: EndpointStats(running=1)}, status(), lease)
    store.is_tardy = True
    await publisher.publish({STATS: EndpointStats(running=2)}, status(hostname="h"), lease)
    transact = store.transact

    async def overtaken(writes, conditions=()):
        """The late one lands between the next one's reading and its writing."""
        store.transact = transact
        await store.land()
        return await transact(writes, conditions)

    store.transact = overtaken
    assert await publisher.publish({STATS: EndpointStats(running=3)}, status(hostname="i"), lease)
    assert "two nodes" not in caplog.text
