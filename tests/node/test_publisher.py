"""What a node says of itself reaches the store, however much it is."""

from __future__ import annotations

import logging
import time

from nebula_core.interfaces import MAX_OPERATIONS
from nebula_core.node.publisher import Publisher
from nebula_core.store import keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.types import EndpointInfo, EndpointStats, NodeStatus

logger = logging.getLogger("test")


def endpoint(number):
    return EndpointInfo(model_uid="m", replica_id=str(number), node_id="n", assignment_version="v", incarnation=1, engine="fake")


async def test_more_than_a_transaction_holds_is_written_all_the_same_the_node_first(tmp_path):
    values = {}
    for number in range(MAX_OPERATIONS):
        values[keys.endpoint("m", str(number))] = endpoint(number)
        values[keys.stats("m", str(number))] = EndpointStats(running=number)
    async with (
        EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store,
        following(store, (keys.ENDPOINTS, keys.STATS), logger) as mirror,
    ):
        lease = await store.grant(60)
        assert await Publisher(store, mirror, logger).publish(values, {keys.node("n"): NodeStatus(node_id="n", address="")}, lease)
        entries = {entry.key: entry.mod_revision for entry in (await store.list("")).entries}
        assert entries.keys() == {*values, keys.node("n")}
        assert entries[keys.node("n")] == min(entries.values())
        for number in range(MAX_OPERATIONS):
            assert entries[keys.endpoint("m", str(number))] == entries[keys.stats("m", str(number))]
