import asyncio
import logging
import os
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import msgspec
import pytest
from nebula_probe_http.probe import HttpProbe
from nebula_runtime_process import ProcessSettings, build

from nebula_core.background import background
from nebula_core.errors import StoreUnavailable
from nebula_core.interfaces import Delete, Put
from nebula_core.metrics import Metrics
from nebula_core.node.daemon import NodeDaemon
from nebula_core.node.note import decode
from nebula_core.node.observe import PREFIXES
from nebula_core.provider import Context
from nebula_core.settings import NodeSettings, Settings, StoreSettings
from nebula_core.store import codec, keys
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.store.mirror import following
from nebula_core.testing.engines import FakeEngine, FakeScraper
from nebula_core.testing.polling import eventually
from nebula_core.testing.ports import PortRange
from nebula_core.types import (
    DRAIN,
    DRAINING,
    READY,
    RUN,
    STARTING,
    UNHEALTHY,
    Assignment,
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    NodeStatus,
    PlacementPlan,
    ReplicaSpec,
)

logger = logging.getLogger("test")
UID = "org/model"
ENDPOINT = keys.endpoint(UID, "0")


class MoodyStore(EmbeddedStore):
    """A store that can be told to be away for writes."""

    away = False
    lease = ""

    async def grant(self, ttl_s):
        self.lease = await super().grant(ttl_s)
        return self.lease

    async def transact(self, writes, conditions=()):
        if self.away:
            raise StoreUnavailable("away")
        return await super().transact(writes, conditions)

    async def keep_alive(self, lease):
        if self.away:
            raise StoreUnavailable("away")
        await super().keep_alive(lease)


class Fleet:
    """One node's surroundings: a store, a runtime's folder, and what tests want to know of them."""

    def __init__(self, store, tmp_path):
        self.store = store
        self.data_dir = tmp_path / "data"
        self.runtime = None
        self.engines = {"fake": FakeEngine()}
        self.metrics = Metrics()
        self.devices = {}
        self.ports = PortRange(20)
        self.settings = Settings(
            data_dir=self.data_dir,
            store=StoreSettings(lease_s=3),
            node=NodeSettings(
                name="n",
                heartbeat_s=0.2,
                probe_timeout_s=0.5,
                stop_grace_s=1,
                engine_ports=(self.ports.ports[0], self.ports.ports[-1]),
            ),
        )

    def start_runtime(self):
        """One at a time: the folder belongs to one daemon."""
        self.runtime = build(Context(logger=logger, data_dir=self.data_dir / "engines"), ProcessSettings())
        return self.runtime

    @asynccontextmanager
    async def node(self):
        """A daemon that is killed at the end: its engines stay."""
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            mirror = await stack.enter_async_context(following(self.store, PREFIXES, logger))
            daemon = NodeDaemon(
                store=self.store,
                mirror=mirror,
                engines=self.engines,
                runtime=self.start_runtime(),
                probes={"http": HttpProbe(http)},
                make_scraper=lambda name: FakeScraper(),
                settings=self.settings,
                logger=logger,
                clock=time.monotonic,
                http=http,
                version="1",
                metrics=self.metrics,
                devices=self.devices,
            )
            await stack.enter_async_context(background(daemon.run()))
            yield daemon

    async def plan(self, *assignments):
        await self.put(keys.placement(UID), PlacementPlan(model_uid=UID, plan_version=1, assignments=assignments))

    async def put(self, key, value):
        return await self.store.transact([Put(key, codec.encode(value))])

    async def value(self, key, type_):
        entry = await self.store.get(key)
        return None if entry is None else codec.decode(type_, entry.value)

    async def endpoint(self, replica_id="0"):
        return await self.value(keys.endpoint(UID, replica_id), EndpointInfo)

    async def when(self, state, incarnation=None, replica_id="0"):
        """The endpoint once it is in this state."""

        async def look():
            found = await self.endpoint(replica_id)
            fits = found is not None and found.state == state and incarnation in (None, found.incarnation)
            return found if fits else None

        return await eventually(look)

    def shown(self, name):
        """The series of a metric, by label values."""
        return {sample.labels: sample.value for family in self.metrics.snapshot() if family.name == name for sample in family.samples}

    def series(self, name, expected):
        """To wait for."""

        async def look():
            return self.shown(name) == expected

        return look

    async def lists(self, replica):
        """Whether the node says that it runs this replica."""
        return replica in (await self.value(keys.node("n"), NodeStatus)).replicas

    async def gone(self):
        """Wait until nothing runs and the store knows of nothing."""

        async def look():
            listings = [await self.store.list(prefix) for prefix in (keys.ENDPOINTS, keys.STATS)]
            return not any(listing.entries for listing in listings) and not await self.handles()

        await eventually(look)

    async def handles(self):
        return await self.runtime.running()

    async def pid(self):
        [handle] = await self.handles()
        return handle.pid


@pytest.fixture
async def fleet(tmp_path):
    async with MoodyStore(tmp_path, EmbeddedSettings(), time.monotonic, logger) as store:
        fleet = Fleet(store, tmp_path)
        yield fleet
        for handle in await fleet.handles():
            await fleet.runtime.stop(handle, 0)
        fleet.ports.close()


def assignment(replica_id="0", version="v1", wanted=RUN, **engine_args):
    spec = ReplicaSpec(model_uid=UID, engine="fake", served_names=(UID, "alias"), engine_args=engine_args)
    return Assignment(replica_id=replica_id, node_id="n", spec=spec, assignment_version=version, wanted=wanted)


async def ask(endpoint, key=None):
    headers = {"Authorization": f"Bearer {endpoint.api_key if key is None else key}"}
    body = {"messages": [{"role": "user", "content": "echo me"}]}
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(f"{endpoint.url}/v1/chat/completions", json=body, headers=headers)


async def test_a_planned_replica_becomes_ready_and_serves(fleet):
    async with fleet.node():
        await fleet.plan(assignment(ready_after=0.3))
        await fleet.when(STARTING)
        endpoint = await fleet.when(READY)
        assert (endpoint.node_id, endpoint.incarnation, endpoint.served_names) == ("n", 1, (UID, "alias"))
        assert (await ask(endpoint)).json()["choices"][0]["message"]["content"] == "echo me"
        assert (await ask(endpoint, "a wrong key")).status_code == 401


async def test_the_node_and_its_engines_signals_are_in_the_store(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        stats = await eventually(lambda: fleet.value(keys.stats(UID, "0"), EndpointStats))
        assert (stats.pending, stats.running, stats.kv_cache_usage, stats.incarnation) == (0, 0, None, 1)
        assert stats.age_s >= 0
        node = await eventually(lambda: fleet.value(keys.node("n"), NodeStatus))
        assert node.engines == ("fake",)
        assert node.machine.memory_total_bytes > 0
        await eventually(lambda: fleet.lists(f"{UID}/0"))
        assert (await fleet.store.get(keys.node("n"))).leased
        assert not (await fleet.store.get(ENDPOINT)).leased


async def test_replicas_get_ports_and_keys_of_their_own(fleet):
    async with fleet.node():
        await fleet.plan(*(assignment(str(number)) for number in range(3)))
        endpoints = [await fleet.when(READY, replica_id=str(number)) for number in range(3)]
        assert len({endpoint.url for endpoint in endpoints}) == 3
        assert len({endpoint.api_key for endpoint in endpoints}) == 3


async def test_a_killed_engine_comes_back(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        first = await fleet.when(READY)
        os.kill(await fleet.pid(), signal.SIGKILL)
        second = await fleet.when(READY, incarnation=2)
        assert (second.url, second.api_key) == (first.url, first.api_key), "gateways that cannot hear of it while the store is away go on"
        assert (await ask(second)).status_code == 200


async def test_restarts_and_load_are_counted_as_long_as_the_replica_is_here(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        await eventually(fleet.series("nebula_engine_running_requests", {(UID, "0"): 0}))
        assert fleet.shown("nebula_container_restart_total") == {(UID,): 0}
        os.kill(await fleet.pid(), signal.SIGKILL)
        await fleet.when(READY, incarnation=2)
        await eventually(fleet.series("nebula_container_status", {(UID, "0", "fake"): 1}))
        assert fleet.shown("nebula_container_restart_total") == {(UID,): 1}
        await fleet.plan(assignment(wanted=DRAIN))
        await fleet.gone()
        for name in ("nebula_container_status", "nebula_container_restart_total", "nebula_engine_running_requests"):
            await eventually(fleet.series(name, {}))


async def test_the_next_daemon_adopts_what_runs(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        before = await fleet.when(READY)
        pid = await fleet.pid()
    await fleet.store.transact([Delete(ENDPOINT)])
    async with fleet.node():
        assert await fleet.when(READY) == before
        assert await fleet.pid() == pid
        os.kill(pid, signal.SIGKILL)
        await fleet.when(READY, incarnation=2)


async def test_an_adopted_engine_that_no_plan_speaks_of_keeps_running(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
    await fleet.store.transact([Delete(keys.placement(UID)), Delete(ENDPOINT)])
    async with fleet.node():
        await fleet.when(READY)
        assert await fleet.pid() == pid


async def test_a_deleted_plan_stops_nothing(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
        await fleet.store.transact([Delete(keys.placement(UID))])
        await fleet.put(keys.placement("other"), PlacementPlan(model_uid="other", plan_version=1, assignments=(other_model(),)))
        await eventually(lambda: fleet.value(keys.endpoint("other", "0"), EndpointInfo))  # the node has seen both
        assert pid in [handle.pid for handle in await fleet.handles()]
        assert (await fleet.endpoint()).state == READY


def other_model():
    return Assignment(replica_id="0", node_id="n", spec=ReplicaSpec(model_uid="other", engine="fake"), assignment_version="v1")


@pytest.mark.parametrize("key", [keys.PLACEMENTS, f"{keys.PLACEMENTS}m/0", keys.ENDPOINTS, f"{keys.ENDPOINTS}m/0/x"])
async def test_a_key_of_another_shape_is_left_out(fleet, key):
    await fleet.put(key, PlacementPlan(model_uid=UID, plan_version=1))
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)


async def test_a_changed_assignment_replaces_the_engine(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
        await fleet.plan(assignment(version="v2"))
        assert (await fleet.when(READY, incarnation=2)).assignment_version == "v2"
        assert await fleet.pid() != pid


async def test_a_drain_waits_for_the_gateway(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        await report(fleet, revision=0)
        await fleet.plan(assignment(wanted=DRAIN))
        await fleet.when(DRAINING)
        revision = (await fleet.store.get(keys.placement(UID))).mod_revision
        await report(fleet, revision=revision, draining={f"{UID}/0": 1})
        assert await fleet.pid()
        await report(fleet, revision=revision)
        await fleet.gone()


async def report(fleet, **fields):
    if "revision" in fields:
        fields["applied_revision"] = fields.pop("revision")
    await fleet.put(keys.gateway("g"), GatewayStatus(gateway_id="g", address="", **fields))


async def test_a_drain_can_be_called_off(fleet):
    async with fleet.node():
        await report(fleet, revision=0)
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
        await fleet.plan(assignment(wanted=DRAIN))
        await fleet.when(DRAINING)
        await fleet.plan(assignment())
        await fleet.when(READY)
        assert await fleet.pid() == pid


async def test_a_plan_that_lists_it_no_more_ends_no_engine_and_is_said_once(fleet, caplog):
    async with fleet.node():
        await report(fleet, revision=10**6)
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
        for _ in range(2):
            await fleet.plan()
            await fleet.put(keys.placement("other"), PlacementPlan(model_uid="other", plan_version=1, assignments=(other_model(),)))
            await eventually(lambda: fleet.value(keys.endpoint("other", "0"), EndpointInfo))  # the node has seen both
        assert (await fleet.endpoint()).state == READY
        assert pid in [handle.pid for handle in await fleet.handles()]
        assert caplog.text.count("plan does not list it") == 1


async def test_a_replica_that_moved_to_another_node_is_ended_here(fleet):
    async with fleet.node():
        await report(fleet, revision=10**6)
        await fleet.plan(assignment())
        await fleet.when(READY)
        await fleet.plan(msgspec.structs.replace(assignment(), node_id="other"))
        await fleet.gone()


async def test_after_a_restart_a_drain_waits_for_gateways_to_be_heard_of(fleet):
    fleet.settings = fleet.settings.model_copy(update={"store": StoreSettings(lease_s=600)})
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
    async with fleet.node():
        await fleet.plan(assignment(wanted=DRAIN))
        await fleet.when(DRAINING)
        await fleet.put(keys.placement("other"), PlacementPlan(model_uid="other", plan_version=1, assignments=(other_model(),)))
        await eventually(lambda: fleet.value(keys.endpoint("other", "0"), EndpointInfo))
        assert pid in [handle.pid for handle in await fleet.handles()]
        await report(fleet, revision=(await fleet.store.get(keys.placement(UID))).mod_revision)

        async def ended():
            return pid not in [handle.pid for handle in await fleet.handles()]

        await eventually(ended)


async def test_where_no_gateway_is_heard_of_for_a_lease_there_is_none(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        await fleet.plan(assignment(wanted=DRAIN))
        await fleet.gone()


async def test_an_engine_that_dies_while_loading_shows_its_last_lines(fleet):
    async with fleet.node():
        await fleet.plan(assignment(say=["loading the model", "out of memory"], crash=3))
        endpoint = await fleet.when(UNHEALTHY)
        assert endpoint.reason == "exited with code 3 while loading; last lines:\nloading the model\nout of memory"
        again = await fleet.when(UNHEALTHY, incarnation=2)
        assert "out of memory" in again.reason


async def test_what_the_machine_lacks_is_named(fleet):
    async with fleet.node():
        await fleet.plan(assignment(missing="/models/x.gguf"))
        assert (await fleet.when(UNHEALTHY)).reason == "there is no /models/x.gguf"


async def test_an_engine_that_is_not_installed_here_is_named(fleet):
    spec = ReplicaSpec(model_uid=UID, engine="vllm")
    async with fleet.node():
        await fleet.plan(Assignment(replica_id="0", node_id="n", spec=spec, assignment_version="v1"))
        assert '"vllm" is not installed' in (await fleet.when(UNHEALTHY)).reason


async def test_an_engine_that_hangs_is_restarted(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        os.kill(await fleet.pid(), signal.SIGSTOP)
        assert "failed probes" in (await fleet.when(UNHEALTHY)).reason
        await fleet.when(READY, incarnation=2)


async def test_an_engine_that_never_gets_ready_is_given_up_and_tried_again(fleet):
    fleet.settings = fleet.settings.model_copy(update={"node": fleet.settings.node.model_copy(update={"start_timeout_s": 0.5})})
    async with fleet.node():
        await fleet.plan(assignment(ready_after=600))
        assert "not ready within 0.5 s" in (await fleet.when(UNHEALTHY)).reason
        await fleet.when(STARTING, incarnation=2)


async def test_an_engine_elsewhere_is_watched_but_not_stopped(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        engine = await fleet.when(READY)
        attached = Assignment(
            replica_id="0",
            node_id="n",
            spec=ReplicaSpec(model_uid="ext", engine="fake", engine_args={"url": engine.url, "api_key": engine.api_key}),
            assignment_version="v1",
        )
        await fleet.put(keys.placement("ext"), PlacementPlan(model_uid="ext", plan_version=1, assignments=(attached,)))

        async def ready():
            found = await fleet.value(keys.endpoint("ext", "0"), EndpointInfo)
            return found if found and found.state == READY else None

        assert (await eventually(ready)).url == engine.url
        leaving = msgspec.structs.replace(attached, wanted=DRAIN)
        await fleet.put(keys.placement("ext"), PlacementPlan(model_uid="ext", plan_version=2, assignments=(leaving,)))

        async def let_go():
            return await fleet.value(keys.endpoint("ext", "0"), EndpointInfo) is None

        await eventually(let_go)
        assert (await ask(engine)).status_code == 200


@asynccontextmanager
async def stalling():
    """An engine that is well, and whose load never comes to an end."""

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" if b"/load" in head else b"HTTP/1.0 200 OK\r\n\r\n")
        if b"/load" in head:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_an_engine_whose_page_stalls_is_counted_and_hides_no_other_engine(fleet):
    async with stalling() as url, fleet.node():
        stuck = Assignment(
            replica_id="0",
            node_id="n",
            spec=ReplicaSpec(model_uid="stuck", engine="fake", engine_args={"url": url}),
            assignment_version="v1",
        )
        await fleet.put(keys.placement("stuck"), PlacementPlan(model_uid="stuck", plan_version=1, assignments=(stuck,)))
        await fleet.plan(assignment())

        async def counted():
            return fleet.shown("nebula_scrape_failed_total").get(("stuck", "late"), 0) >= 2

        await eventually(counted)
        await fleet.when(READY)
        await eventually(lambda: fleet.value(keys.stats(UID, "0"), EndpointStats))
        assert await fleet.value(keys.stats("stuck", "0"), EndpointStats) is None
        assert fleet.shown("nebula_scrape_failed_total")[UID, "late"] == 0


async def test_while_the_store_is_away_engines_are_healed_and_reported_later(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        fleet.store.away = True
        pid = await fleet.pid()
        os.kill(pid, signal.SIGKILL)

        async def another():
            handles = await fleet.handles()
            return handles and handles[0].pid != pid

        await eventually(another)
        fleet.store.away = False
        await fleet.when(READY, incarnation=2)


async def test_a_lost_lease_is_replaced_and_the_heartbeat_written_again(fleet):
    async with fleet.node():
        first = await eventually(lambda: fleet.store.get(keys.node("n")))
        await fleet.store.revoke(fleet.store.lease)
        await fleet.plan(assignment())
        await fleet.when(READY)

        async def again():
            entry = await fleet.store.get(keys.node("n"))
            return entry is not None and entry.create_revision != first.create_revision

        await eventually(again)


@pytest.mark.parametrize("write", [Delete(ENDPOINT), Put(ENDPOINT, b"nonsense")])
async def test_an_endpoint_that_somebody_deletes_or_overwrites_is_written_again(fleet, write):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        ours = await fleet.store.get(ENDPOINT)
        await fleet.store.transact([write])

        async def again():
            entry = await fleet.store.get(ENDPOINT)
            return entry is not None and entry.value == ours.value

        await eventually(again)


async def test_stop_engines_leaves_nothing(fleet):
    async with fleet.node() as daemon:
        await fleet.plan(assignment("0"), assignment("1", ignore_term=True))
        await fleet.when(READY, replica_id="0")
        await fleet.when(READY, replica_id="1")
    await daemon.stop_engines()
    assert await fleet.handles() == []
    assert (await fleet.store.list(keys.ENDPOINTS)).entries == ()
    assert (await fleet.store.list(keys.STATS)).entries == ()
    assert (await fleet.store.list(keys.NODES)).entries == ()


async def test_a_restarted_node_is_not_missed(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
    left = await fleet.store.get(keys.node("n"))
    assert left is not None
    async with fleet.node():

        async def taken_over():
            return (await fleet.store.get(keys.node("n"))).mod_revision > left.mod_revision

        await eventually(taken_over)
        assert (await fleet.when(READY)).incarnation == 1


async def test_a_handle_says_which_replica_it_is(fleet):
    async with fleet.node():
        await fleet.plan(assignment())
        endpoint = await fleet.when(READY)
        [handle] = await fleet.handles()
        note = decode(handle.note)
        assert note.replica == (UID, "0")
        assert (note.url, note.api_key) == (endpoint.url, endpoint.api_key)
        assert handle.name.startswith("org_model-0-")


class Forgetful(FakeEngine):
    """A plugin that was changed for the worse while its engine ran."""

    def health_path_for(self, spec):
        raise RuntimeError("a bug in a plugin")


async def test_a_plugin_that_fails_on_adoption_ends_no_other_watch(fleet, caplog):
    async with fleet.node():
        await fleet.plan(assignment())
        await fleet.when(READY)
        pid = await fleet.pid()
    fleet.engines = {"fake": Forgetful(), "good": FakeEngine()}
    async with fleet.node():
        good = Assignment(replica_id="0", node_id="n", spec=ReplicaSpec(model_uid="good", engine="good"), assignment_version="v1")
        await fleet.put(keys.placement("good"), PlacementPlan(model_uid="good", plan_version=1, assignments=(good,)))

        async def ready():
            found = await fleet.value(keys.endpoint("good", "0"), EndpointInfo)
            return found is not None and found.state == READY

        await eventually(ready)
        assert pid in [handle.pid for handle in await fleet.handles()]
    assert f"(process {pid}) runs on but is not watched: its plugin failed" in caplog.text
