"""`nebula up` waits for what was declared, and gives up on what cannot come."""

from __future__ import annotations

import logging
import time

import pytest

from nebula_core import startup
from nebula_core.admin.view import PREFIXES, View
from nebula_core.errors import LaunchError
from nebula_core.interfaces import Put
from nebula_core.metrics import Metrics
from nebula_core.plugins import load
from nebula_core.settings import Settings
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.testing.engines import FakeEngine
from nebula_core.types import Assignment, ModelRequest, NodeStatus, PlacementPlan, ReplicaSpec

logger = logging.getLogger("test")
REQUEST = ModelRequest(model_uid="m", engine="fake")


class Silent:
    """Progress that nobody looks at."""

    def step(self, text):
        pass

    def model(self, model_uid, state, detail):
        pass

    def ready(self, lines):
        pass


async def test_a_replica_on_a_node_that_is_not_heard_of_is_not_waited_for(tmp_path):
    spec = ReplicaSpec(model_uid="m", engine="fake")
    plan = PlacementPlan(
        model_uid="m",
        plan_version=1,
        assignments=(Assignment(replica_id="0", node_id="earlier-name", spec=spec, assignment_version="v"),),
    )
    async with (
        EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store,
        following(store, PREFIXES, logger) as mirror,
    ):
        values = {
            keys.model_request("m"): REQUEST,
            keys.placement("m"): plan,
            keys.node("present-name"): NodeStatus(node_id="present-name", address=""),
        }
        leader = Put(keys.SCHEDULER_LEADER, b"somebody", await store.grant(30))
        await store.transact([leader, *(Put(key, codec.encode(value)) for key, value in values.items())])
        view = View(
            settings=Settings(data_dir=tmp_path),
            store=store,
            mirror=mirror,
            engines={"fake": FakeEngine()},
            plugins=load(found=()),
            snapshot=Metrics().snapshot,
        )
        await view.caught_up("m")
        with pytest.raises(LaunchError, match=r'"m" did not start: .*"earlier-name", which is not heard of.*\[node\] name'):
            await startup.wait_ready(view, [REQUEST], Silent(), since=0, keep_going=False)
        await startup.wait_ready(view, [REQUEST], Silent(), since=0, keep_going=True)
