"""Running roles: which parts each has, in which order they open, and in which they stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from nebula_core import startup
from nebula_core.admin import token
from nebula_core.admin.api import make_app
from nebula_core.admin.server import AdminServer, bind
from nebula_core.admin.view import View
from nebula_core.app import App, load_plugins, open_app
from nebula_core.background import background
from nebula_core.gateway.control import PREFIXES as GATEWAY_PREFIXES
from nebula_core.gateway.control import GatewayControl
from nebula_core.limits import raise_file_limit
from nebula_core.metrics import merge
from nebula_core.node.daemon import NodeDaemon
from nebula_core.roles import Progress, Role
from nebula_core.scheduler.loop import SchedulerLoop
from nebula_core.settings import Settings
from nebula_core.store import keys
from nebula_core.types import ModelRequest

PREFIXES = (*GATEWAY_PREFIXES, keys.STATUS, keys.NODES, keys.GATEWAYS, keys.SEEDS, keys.SCHEDULER_LEADER)
ALL_ROLES = frozenset(Role)


async def serve(roles: Set[Role], settings: Settings, progress: Progress, *, keep_going: bool = False) -> None:
    """Run these roles until SIGTERM or SIGINT. Raises `NebulaError` for what an operator can mend.

    With all three roles this process owns its engines: it stops them when it stops, and ends if a declared model does not start,
    unless `keep_going`. A node alone leaves its engines running, for the next one to adopt.
    """
    stopped = _stop_signal()
    plugins = load_plugins(settings)
    raise_file_limit()
    progress.step(f"opening the {settings.store.use} store in {settings.data_dir}")
    async with open_app(settings, plugins, PREFIXES) as app, AsyncExitStack() as stack:
        alone = roles == ALL_ROLES
        declared = startup.requests(app)
        if alone and not keep_going:
            startup.check(app, declared)
        gateway = await stack.enter_async_context(_gateway(app)) if Role.GATEWAY in roles else None
        if Role.SCHEDULER in roles:
            await startup.seed_models(app, declared)
            await stack.enter_async_context(_scheduler(app))
        if Role.NODE in roles:
            await stack.enter_async_context(_node(app, owns_engines=alone))
        if gateway is not None:
            await stack.enter_async_context(gateway.serving())
        for role in sorted(roles):
            for lifespan in plugins.hook.nebula_lifespan(role=role):
                await stack.enter_async_context(lifespan)
        await _until(stopped, _say_ready(app, gateway, declared if alone else (), progress, keep_going=keep_going))
        await stopped
        progress.step("stopping: running requests may finish; a second Ctrl-C does not wait")


async def _say_ready(app: App, gateway: Gateway | None, declared: Sequence[ModelRequest], progress: Progress, *, keep_going: bool) -> None:
    if gateway is None:
        progress.ready([f"running on {app.settings.node_name}; `nebula status` on a gateway's machine shows the fleet"])
        return
    progress.step("starting engines" if declared else "starting")
    await gateway.control.wait_serving()
    await startup.wait_ready(gateway.view, declared, progress, since=gateway.opened_at, keep_going=keep_going)
    progress.ready(startup.what_next(gateway.control.address, gateway.admin_url, [request.model_uid for request in declared]))


async def _until(stopped: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> None:
    """Do the work, unless the process is asked to stop before it is done."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
    if task.done():
        task.result()


@dataclass(frozen=True)
class Gateway:
    """The gateway's control side and its admin API, with their ports bound."""

    control: GatewayControl
    view: View
    admin: AdminServer
    admin_url: str
    opened_at: int
    """The store's revision before anything was started."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the workers and the admin API; at the end workers finish what they have."""
        async with self.admin, background(self.control.run()):
            try:
                yield
            finally:
                await self.control.retire()


@asynccontextmanager
async def _gateway(app: App) -> AsyncIterator[Gateway]:
    """The gateway with its ports bound and nothing running yet, so that a port in use is known before any engine is started."""
    settings = app.settings
    run_dir = settings.data_dir / "run"
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with GatewayControl(app.store, app.mirror, settings, run_dir, logging.getLogger("nebula.gateway")) as control:
        view = View(
            settings=settings,
            store=app.store,
            mirror=app.mirror,
            engines=app.engines,
            plugins=app.plugins,
            snapshot=lambda: merge([app.metrics.snapshot(), control.snapshot()]),
        )
        api = make_app(view, token.ensure(settings.data_dir))
        admin = AdminServer(api, bind(settings.admin.host, settings.admin.port))
        yield Gateway(control, view, admin, admin.url, app.mirror.revision)


@asynccontextmanager
async def _scheduler(app: App) -> AsyncIterator[None]:
    loop = SchedulerLoop(app.store, app.mirror, app.engines, app.settings, logging.getLogger("nebula.scheduler"), time.monotonic)
    async with background(loop.run()):
        yield


@asynccontextmanager
async def _node(app: App, *, owns_engines: bool) -> AsyncIterator[None]:
    daemon = NodeDaemon(
        store=app.store,
        mirror=app.mirror,
        engines=app.engines,
        runtime=app.runtime(),
        probes=app.probes(),
        make_scraper=app.scraper,
        settings=app.settings,
        data_dir=app.settings.data_dir,
        logger=logging.getLogger("nebula.node"),
        clock=time.monotonic,
        http=app.http,
        version=version("nebula-serving"),
    )
    try:
        async with background(daemon.run()):
            yield
    finally:
        if owns_engines:
            await daemon.stop_engines()


def _stop_signal() -> asyncio.Future[None]:
    """Done at the first SIGTERM or SIGINT; the second one has its usual effect."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stopped.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopped
