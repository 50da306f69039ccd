"""What the admin API looks at and acts on: the store, through the mirror where this process follows it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from nebula_core import desired
from nebula_core.admin import nodes
from nebula_core.admin.documents import StoreView
from nebula_core.admin.reading import Picture, Reader
from nebula_core.admin.seen import Seen
from nebula_core.errors import NebulaError, UnknownModel, UnknownNode
from nebula_core.gateway.hub import Explained
from nebula_core.interfaces import Engine, Exporter, Store, Strategy
from nebula_core.masks import secrets_in
from nebula_core.metrics import Metrics
from nebula_core.plugins import Plugins
from nebula_core.scheduler import election
from nebula_core.settings import Settings
from nebula_core.snapshots import Snapshot
from nebula_core.store import keys
from nebula_core.store.mirror import Mirror
from nebula_core.types import (
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeRequest,
    NodeStatus,
    PlacementPlan,
)

PREFIXES = (
    keys.MODEL_REQUESTS,
    keys.NODE_REQUESTS,
    keys.PLACEMENTS,
    keys.STATUS,
    keys.ENDPOINTS,
    keys.STATS,
    keys.NODES,
    keys.GATEWAYS,
    keys.SCHEDULER_LEADER,
)
"""What the admin API shows."""
CATCH_UP_S = 1.0

logger = logging.getLogger("nebula.admin")


@dataclass(frozen=True, kw_only=True)
class View:
    """One control process, as its admin API sees it."""

    settings: Settings
    store: Store
    mirror: Mirror
    engines: Mapping[str, Engine]
    plugins: Plugins
    snapshot: Callable[[], Snapshot]
    """The metrics of this process and its workers."""
    followed: Collection[str] = PREFIXES
    """What the mirror follows. The rest of `PREFIXES` is read when it is asked for."""
    exporters: Mapping[str, Exporter] = field(default_factory=dict)
    """Who turns them into pages, by name."""
    explain: Callable[[str], Awaitable[Explained]] | None = None
    """Asks this gateway's workers why they sent a request where they sent it; `None`: this process is no gateway."""
    clock: Callable[[], float] = time.time
    """The time of day: Unix time, seconds."""

    @cached_property
    def secrets(self) -> frozenset[str]:
        """The texts of the files that hold secrets, as they were when first asked for."""
        return secrets_in(self.settings.files)

    @cached_property
    def strategies(self) -> Mapping[str, Strategy]:
        """Every strategy that is installed and can be built here, by name: for what it says of itself, for it decides nothing here."""
        build = self.plugins.builder(self.settings.plugin_tables, self.settings.data_dir, Metrics(), http=None)
        built: dict[str, Strategy] = {}
        for name in self.plugins.names("strategy"):
            try:
                built[name] = build("strategy", name, "the admin API")
            except NebulaError as error:  # a gateway refuses to start with it, and the others route nothing
                logger.warning("the status says nothing of the strategy %r: %s", name, error)
        return built

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.store, self.mirror, self.followed, PREFIXES, self.settings.store.use)

    async def look(self) -> Seen:
        """The store's values, as they are. Raises `StoreUnavailable` if the store must be asked and does not answer."""
        return self._seen(await self._reader.picture())

    async def look_back(self) -> Seen:
        """The same, or what was last known of them; raises `StoreUnavailable` only if nothing ever was."""
        return self._seen(await self._reader.last_picture())

    async def look_for(self, model_uid: str) -> Seen:
        """The same, if that model is among them. Raises `UnknownModel` as well."""
        seen = await self.look()
        if model_uid not in seen.requests and model_uid not in seen.plans:
            raise UnknownModel(f'there is no model "{model_uid}" (models: {", ".join(sorted(seen.requests)) or "none"})')
        return seen

    async def look_for_node(self, node_id: str) -> Seen:
        """The same, if that node is among them. Raises `UnknownNode` as well."""
        seen = await self.look()
        if node_id not in (known := nodes.names(seen)):
            raise UnknownNode(f'there is no node "{node_id}" (nodes: {", ".join(sorted(known)) or "none"})')
        return seen

    def seen(self) -> Seen:
        """The store's values as last read, at once: for a process whose mirror follows all of `PREFIXES`."""
        return self._seen(Picture(self.mirror, {}))

    def _seen(self, picture: Picture) -> Seen:
        requests = keys.by_model(picture.values(keys.MODEL_REQUESTS, ModelRequest))
        statuses = keys.by_model(picture.values(keys.STATUS, ModelStatus))
        leader = picture.entry(keys.SCHEDULER_LEADER)
        return Seen(
            requests=requests,
            wanted={uid: self._wanted(request, statuses.get(uid)) for uid, request in requests.items()},
            plans=keys.by_model(picture.values(keys.PLACEMENTS, PlacementPlan)),
            statuses=statuses,
            endpoints=keys.by_replica(picture.values(keys.ENDPOINTS, EndpointInfo)),
            stats=keys.by_replica(picture.values(keys.STATS, EndpointStats)),
            nodes={node.node_id: node for node in picture.values(keys.NODES, NodeStatus).values()},
            node_requests=keys.by_node(picture.values(keys.NODE_REQUESTS, NodeRequest)),
            lease_s=self.settings.store.lease_s,
            gateways=tuple(picture.values(keys.GATEWAYS, GatewayStatus).values()),
            scheduler=election.name_in(leader) if leader and leader.leased else None,
            scheduler_problem=election.obstacle(leader) if leader else "",
            store=self._store_view(picture),
            strategies=self.strategies,
            strategy=self.settings.router.strategy,
            fallback=self.settings.router.fallback,
            secrets=self.secrets,
        )

    def _wanted(self, request: ModelRequest, status: ModelStatus | None) -> int:
        """How many replicas a request comes to; where load decides, the scheduler knows."""
        return status.wanted if status and status.scaling else desired.wanted(request, self.engines)

    def _store_view(self, picture: Picture) -> StoreView:
        return StoreView(
            kind=self.settings.store.use,
            connected=self.mirror.connected and not picture.silence,
            silent_since=picture.silent_since,
            read_at=picture.listed_at,
            never_read=picture.never_read,
        )

    async def caught_up(self, key: str) -> None:
        """Wait until a write of this key can be read here, so that who writes and then looks sees it."""
        await self._reader.forget()
        if not key.startswith(tuple(self.followed)):
            return
        changes = self.mirror.subscribe()
        written = await self.store.get(key)
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while self.mirror.entry(key) != written:
                    await changes.wait()
