"""The gateway's control side: follows the store, feeds the workers, and reports on them.

store ─► mirror ─► feed (pure) ─► hub ─► workers
                                   │ ▲
         /gateways/{gateway} ◄─────┤ └─► other gateways: what is in flight through each
                                   └ applied revision, demand, requests on draining replicas
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from nebula_core.errors import NebulaError
from nebula_core.gateway import feed
from nebula_core.gateway.handover import Inheritance
from nebula_core.gateway.heartbeat import Heartbeat
from nebula_core.gateway.hub import Explained, WorkerHub
from nebula_core.gateway.kept_table import KeptTable
from nebula_core.gateway.peer_listener import PeerListener
from nebula_core.gateway.peers import Peers
from nebula_core.gateway.routing import build_routing
from nebula_core.gateway.sockets import bind_public
from nebula_core.gateway.supervisor import Supervisor
from nebula_core.gateway.traffic import TrafficMeter
from nebula_core.interfaces import Store
from nebula_core.metrics import Metrics
from nebula_core.router.routes import ModelRoute
from nebula_core.settings import Settings
from nebula_core.snapshots import Snapshot
from nebula_core.store import keys
from nebula_core.store.mirror import Mirror
from nebula_core.types import EndpointInfo, EndpointStats, GatewayStatus, ModelRequest, ModelStatus, PlacementPlan

PREFIXES = (keys.MODEL_REQUESTS, keys.PLACEMENTS, keys.STATUS, keys.ENDPOINTS, keys.STATS, keys.GATEWAYS)
"""What a gateway's mirror must follow."""
_TABLE = (keys.MODEL_REQUESTS, keys.PLACEMENTS, keys.STATUS, keys.ENDPOINTS)

TAKE_OVER_S = 3.0
"""How long workers that an earlier process left behind have to hand the port over."""
WATCH_S = 0.5
MOST_EARLY_DEATHS = 2


class GatewayControl:
    """Opens the public port and runs its workers. The caller enters it, runs it, and at the end calls `retire`.

    If the mirror does not follow the store when this runs, the workers serve from the table that was kept on disk, until it does.
    """

    def __init__(self, store: Store, mirror: Mirror, settings: Settings, run_dir: Path, logger: logging.Logger) -> None:
        self._store, self._mirror, self._settings, self._logger = store, mirror, settings, logger
        self._path = run_dir / "gateway.sock"
        generation = secrets.token_hex(8)
        gateway = settings.gateway
        settings_json = settings.model_dump_json().encode()
        self._hub = WorkerHub(self._path, generation, settings_json, gateway.drain_s, logger, workers=gateway.workers)
        self._listener = PeerListener(self._hub, gateway.peers_host, gateway.peers_port, logger)
        self._peers = Peers(self._hub, mirror, settings.gateway_name, logger)
        self._kept = KeptTable(settings.data_dir, logger)
        self._heartbeat = Heartbeat(store, mirror, settings.store.lease_s, logger, self._status, self._hub_changed)
        self._traffic = TrafficMeter(self._hub.counts, time.monotonic)
        self._generation = generation
        self._models: dict[str, ModelRoute] = {}
        self._sockets: list[socket.socket] = []
        self._supervisor: Supervisor | None = None
        self.address = ""
        """`host:port` of the public port, once entered."""

    async def __aenter__(self) -> GatewayControl:
        build_routing(self._settings, Metrics())  # a policy that cannot be built ends the start here, and not every worker of ours
        gateway, left_behind = self._settings.gateway, self._path.exists()
        async with AsyncExitStack() as stack:
            with Inheritance(self._path, gateway.host, gateway.port) as inheritance:
                await stack.enter_async_context(self._hub)
                await stack.enter_async_context(self._listener)
                self._sockets = await self._bind(inheritance, TAKE_OVER_S if left_behind else 0.0)
            self._closing = stack.pop_all()
        self.address = f"{self._settings.gateway.host}:{self._sockets[0].getsockname()[1]}"
        self._supervisor = Supervisor(self._sockets, self._path, self._generation, self._logger)
        return self

    async def __aexit__(self, *_: object) -> None:
        for listener in self._sockets:
            listener.close()
        await self._closing.aclose()

    async def run(self) -> None:
        """Keep workers running, the table fed and the fleet informed, for ever."""
        assert self._supervisor is not None, "enter the gateway before running it"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._supervisor.run(), name="gateway supervisor")
            group.create_task(self._feed(), name="gateway feed")
            group.create_task(self._heartbeat.run(), name="gateway heartbeat")
            group.create_task(self._peers.run(), name="gateway peers")
            group.create_task(self._kept.run(), name="gateway kept table")

    async def retire(self) -> None:
        """Accept nothing more and let running requests finish, for `[gateway] drain_s` seconds at most."""
        self._hub.retire()
        if self._supervisor is not None:
            await self._supervisor.wait_gone(self._settings.gateway.drain_s)

    async def wait_serving(self) -> None:
        """Wait until all workers have the table."""
        while self._hub.connected < len(self._sockets):
            if self._supervisor is not None and self._supervisor.deaths > MOST_EARLY_DEATHS:
                raise NebulaError("gateway workers end before they can serve; their last words are above")
            await self._hub_changed(WATCH_S)

    def snapshot(self) -> Snapshot:
        """The workers' metrics, as one."""
        return self._hub.snapshot()

    async def explain(self, request_id: str) -> Explained:
        """Why the workers sent a request where they sent it, as far as they still know."""
        return await self._hub.explain(request_id)

    async def _bind(self, inheritance: Inheritance, patience_s: float) -> list[socket.socket]:
        """The sockets of the public port: inherited, as far as there are such, else new."""
        gateway, loop = self._settings.gateway, asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while True:
            inherited = inheritance.listeners
            if inheritance.gathered or len(inherited) >= gateway.workers or not inherited:
                try:
                    return bind_public(gateway.host, gateway.port, gateway.workers, "[gateway]", inherited)
                except NebulaError:
                    if loop.time() >= deadline:
                        raise
            await asyncio.sleep(0.05)

    # --- the table ------------------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        changes = self._mirror.subscribe()
        if not self._mirror.connected:
            self._serve_kept()
        await self._mirror.wait_synced()
        self._rebuild(keys.by_model(self._mirror.values(keys.MODEL_REQUESTS, ModelRequest)))
        self._hub.publish_stats(keys.by_replica(self._mirror.values(keys.STATS, EndpointStats)))
        while True:
            changed = await changes.wait()
            changed_models = ((key, keys.model_of(key)) for key in changed if key.startswith(_TABLE))
            if models := {uid for key, uid in changed_models if uid and self._concerns_table(key, uid)}:
                self._rebuild(models)
            self._pass_stats([key for key in changed if key.startswith(keys.STATS)])

    def _concerns_table(self, key: str, model_uid: str) -> bool:
        """Whether a change of this key may change the table. Statuses change often, and most of what they say is for operators."""
        if not key.startswith(keys.STATUS):
            return True
        route = self._models.get(model_uid)
        return route is not None and route.boot_s != feed.boot_s(self._mirror.get(key, ModelStatus))

    def _serve_kept(self) -> None:
        """What was kept goes to the workers only: what the store says will not build on it."""
        if (table := self._kept.read()) is None:
            self._logger.warning("the store does not answer and no earlier run left a routing table here: clients wait until it does")
            return
        self._logger.warning(
            "the store does not answer: serving by the last routing table, of revision %d with %d models, until it does",
            *(table.revision, len(table.models)),
        )
        self._hub.publish_table({model.model_uid: model for model in table.models}, table.revision)

    def _rebuild(self, model_uids: Iterable[str]) -> None:
        endpoints: dict[str, list[EndpointInfo]] = {}
        for endpoint in self._mirror.values(keys.ENDPOINTS, EndpointInfo).values():
            endpoints.setdefault(endpoint.model_uid, []).append(endpoint)
        for model_uid in model_uids:
            if model_uid in self._models and self._is_unreadable(model_uid):
                continue  # it is served on as it was: its nodes and the scheduler change nothing either, and the scheduler says so
            request = self._mirror.get(keys.model_request(model_uid), ModelRequest)
            if request is None or request.model_uid != model_uid:  # somebody wrote it by hand, and the scheduler says so
                self._models.pop(model_uid, None)
                continue
            plan = self._mirror.get(keys.placement(model_uid), PlacementPlan)
            boot_s = feed.boot_s(self._mirror.get(keys.status(model_uid), ModelStatus))
            self._models[model_uid] = feed.model_route(request, plan, endpoints.get(model_uid, ()), boot_s)
        revision = self._mirror.applied(keys.PLACEMENTS)
        self._hub.publish_table(self._models, revision)
        self._kept.keep(self._models, revision)

    def _is_unreadable(self, model_uid: str) -> bool:
        """Whether its request or its plan is there but not to be read: a newer Nebula wrote it, or somebody by hand."""
        kinds: tuple[tuple[str, type[ModelRequest | PlacementPlan]], ...] = (
            (keys.model_request(model_uid), ModelRequest),
            (keys.placement(model_uid), PlacementPlan),
        )
        return any(self._mirror.entry(key) is not None and self._mirror.get(key, type_) is None for key, type_ in kinds)

    def _pass_stats(self, changed: list[str]) -> None:
        found = keys.by_replica({key: self._mirror.get(key, EndpointStats) for key in changed})
        samples = {replica: stats for replica, stats in found.items() if stats is not None}
        self._hub.publish_stats(samples, gone=found.keys() - samples.keys())

    # --- what the fleet hears -------------------------------------------------------------------------------------------------

    def _status(self) -> GatewayStatus:
        in_flight, waiting = self._hub.in_flight(), self._hub.waiting()
        demand = Counter(waiting)
        for (model_uid, _), count in in_flight.items():
            demand[model_uid] += count
        routable = self._hub.routable()
        return GatewayStatus(
            gateway_id=self._settings.gateway_name,
            address=self.address,
            applied_revision=self._hub.applied_revision,
            demand=dict(demand),
            traffic=self._traffic.now(waiting),
            draining={f"{uid}/{replica}": count for (uid, replica), count in in_flight.items() if (uid, replica) not in routable},
            peers=self._listener.address,
            peers_key=self._listener.key.hex(),
        )

    async def _hub_changed(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):  # `wait_for` would lose a cancellation that comes with the change, until Python 3.12
                await self._hub.changed.wait()
        except TimeoutError:
            return
        self._hub.changed.clear()
