"""Running roles: which parts each has, in which order they open, and in which they stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from nebula_core import compiled, startup
from nebula_core.admin import token
from nebula_core.admin.api import make_app
from nebula_core.admin.server import AdminServer, bind
from nebula_core.admin.view import PREFIXES as ADMIN_PREFIXES
from nebula_core.admin.view import View
from nebula_core.admin.waiting import waiting_app
from nebula_core.app import App, load_plugins, open_app
from nebula_core.background import background
from nebula_core.errors import PluginError
from nebula_core.gateway.control import PREFIXES as GATEWAY_PREFIXES
from nebula_core.gateway.control import GatewayControl
from nebula_core.limits import raise_file_limit
from nebula_core.node.daemon import NodeDaemon
from nebula_core.node.observe import PREFIXES as NODE_PREFIXES
from nebula_core.plugins import way_out
from nebula_core.roles import Progress, Role
from nebula_core.scheduler.loop import PREFIXES as SCHEDULER_PREFIXES
from nebula_core.scheduler.loop import SchedulerLoop
from nebula_core.settings import Settings
from nebula_core.snapshots import Snapshot, merge
from nebula_core.store import keys
from nebula_core.store.filelock import locked
from nebula_core.types import ModelRequest

PREFIXES = {Role.GATEWAY: GATEWAY_PREFIXES, Role.SCHEDULER: SCHEDULER_PREFIXES, Role.NODE: NODE_PREFIXES}
ALL_ROLES = frozenset(Role)
VERSION = version("nebula-serving")
HEARD_OF_S = 3.0
STORE_S = 3.0
"""How long a gateway waits for the store before it serves from the table it has on disk."""
ALREADY_RUNS = "a {role} runs on {folder} already, as process {holder}; give each its own data_dir"


async def serve(roles: Set[Role], settings: Settings, progress: Progress, *, keep_going: bool = False) -> None:
    """Run these roles until SIGTERM or SIGINT; a second one waits for no request, and ends in `CancelledError`.

    Raises `NebulaError` for what an operator can mend.

    With all three roles this process owns its engines: it stops them when it stops, and ends if a declared model does not start,
    unless `keep_going`. A node alone leaves its engines running, for the next one to adopt.
    """
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    opened = asyncio.Event()
    running = asyncio.create_task(_run(roles, settings, progress, stopped, opened, keep_going=keep_going), name="nebula")
    _on_stop_signal(stopped, running)
    await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not opened.is_set():
        running.cancel()  # it may be waiting for a store that does not answer
    try:
        await running
    except asyncio.CancelledError:
        if opened.is_set() or not stopped.done():
            raise


async def _run(
    roles: Set[Role], settings: Settings, progress: Progress, stopped: asyncio.Future[None], opened: asyncio.Event, *, keep_going: bool
) -> None:
    """Open everything, say so by `opened`, and close it when `stopped` is done."""
    plugins = load_plugins(settings)
    raise_file_limit()
    progress.step(f"opening the {settings.store.use} store; this process keeps its own files in {settings.data_dir}")
    async with open_app(settings, plugins, followed(roles)) as app, AsyncExitStack() as stack:
        for role in roles:
            refusal = ALREADY_RUNS.replace("{role}", role).replace("{folder}", str(settings.data_dir))
            stack.enter_context(locked(settings.data_dir / f"{role}.lock", refusal))
        listener = stack.enter_context(bind(app.settings.admin.host, app.settings.admin.port))
        await startup.wait_for_store(app, progress, _waiting(app, listener), STORE_S if roles == {Role.GATEWAY} else None)
        alone = roles == ALL_ROLES
        declared = startup.requests(app)
        if alone and not keep_going:
            startup.check(app, declared)
        _introduce(app, roles)
        opened_at = app.mirror.revision
        gateway = await stack.enter_async_context(_gateway(app)) if Role.GATEWAY in roles else None
        admin = _admin(app, gateway, followed(roles), listener)
        if Role.NODE in roles:
            await stack.enter_async_context(_node(app, owns_engines=alone))
            if Role.SCHEDULER in roles:
                await _heard_of(app)
        if Role.SCHEDULER in roles:
            await startup.seed_models(app, declared)
            await stack.enter_async_context(_scheduler(app))
        await stack.enter_async_context(admin.server)
        if gateway is not None:
            await stack.enter_async_context(_serving(gateway))
        for role in sorted(roles):
            await _enter_lifespans(app, role, stack)
        opened.set()
        ready = _say_ready(app, admin, gateway, declared if alone else (), progress, since=opened_at, keep_going=keep_going)
        await _until(stopped, ready)
        await stopped
        progress.step("stopping: running requests may finish; a second Ctrl-C does not wait")


def followed(roles: Set[Role]) -> tuple[str, ...]:
    """What the mirror follows: what these roles decide by; where they are all there is, all that the admin API shows, too."""
    prefixes = {prefix for role in roles for prefix in PREFIXES[role]}
    return tuple(sorted({*prefixes, *ADMIN_PREFIXES} if roles == ALL_ROLES else prefixes))


async def _heard_of(app: App) -> None:
    """Wait a moment for this node's first heartbeat, so that a scheduler beside it does not begin with "no node is up"."""
    changes, key = app.mirror.subscribe(), keys.node(app.settings.node_name)
    with suppress(TimeoutError):
        async with asyncio.timeout(HEARD_OF_S):
            while app.mirror.entry(key) is None:
                await changes.wait()


async def _enter_lifespans(app: App, role: Role, stack: AsyncExitStack) -> None:
    for hook in sorted(app.plugins.hook.nebula_lifespan.get_hookimpls(), key=lambda hook: hook.plugin_name):
        try:
            arguments: dict[str, Any] = {"app": app, "role": role}
            lifespan: Any = hook.function(*(arguments[name] for name in hook.argnames))
            await stack.enter_async_context(lifespan)
        except Exception as error:
            raise PluginError(f'the plugin "{hook.plugin_name}" failed in nebula_lifespan: {error}; {way_out(hook.plugin_name)}') from error


def _introduce(app: App, roles: Set[Role]) -> None:
    info = app.metrics.gauge("nebula_build_info", "1; the labels tell what runs in this process.", ("version", "role"))
    for role in roles:
        info.labels(VERSION, role.value).set(1)
    if outdated := compiled.warning():
        logging.getLogger("nebula").warning(outdated)


async def _say_ready(
    app: App,
    admin: Admin,
    gateway: GatewayControl | None,
    declared: Sequence[ModelRequest],
    progress: Progress,
    *,
    since: int,
    keep_going: bool,
) -> None:
    if gateway is None:
        progress.ready([f"running on {app.settings.node_name}, admin API {admin.server.url}/docs; `nebula status` shows the fleet"])
        return
    progress.step("starting engines" if declared else "starting")
    await gateway.wait_serving()
    await startup.wait_ready(admin.view, declared, progress, since=since, keep_going=keep_going)
    loaded = keys.by_model(app.mirror.values(keys.MODEL_REQUESTS, ModelRequest))
    models = [request.model_uid for request in declared if request.model_uid in loaded]
    progress.ready(startup.what_next(gateway.address, admin.server.url, models))


async def _until(stopped: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> None:
    """Do the work, unless the process is asked to stop before it is done."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


@dataclass(frozen=True)
class Admin:
    """The admin API of this process, with its port bound."""

    view: View
    server: AdminServer


@asynccontextmanager
async def _waiting(app: App, listener: socket.socket) -> AsyncIterator[None]:
    """Answer on the admin port that the store is waited for. The listener stays open: who connects afterwards waits for the admin API."""
    async with AdminServer(waiting_app(app.settings.store.use), listener.dup()):
        yield


def _admin(app: App, gateway: GatewayControl | None, prefixes: Sequence[str], listener: socket.socket) -> Admin:
    """The admin API, not served yet. Its port was bound early, so that one in use is known before any engine is started."""
    connected = app.metrics.gauge("nebula_store_connected", "1 while all that this process follows of the store is up to date.").labels()

    def snapshot() -> Snapshot:
        connected.set(float(app.mirror.connected))
        return merge([app.metrics.snapshot(), gateway.snapshot()]) if gateway else app.metrics.snapshot()

    view = View(
        settings=app.settings,
        store=app.store,
        mirror=app.mirror,
        engines=app.engines,
        plugins=app.plugins,
        snapshot=snapshot,
        exporters=app.exporters(),
        followed=prefixes,
        explain=gateway.explain if gateway else None,
    )
    api = make_app(view, token.ensure(app.settings.data_dir))
    api.state.nebula = app
    return Admin(view, AdminServer(api, listener))


@asynccontextmanager
async def _gateway(app: App) -> AsyncIterator[GatewayControl]:
    """The gateway's control side with the public port bound, and nothing running yet."""
    run_dir = app.settings.data_dir / "run"
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with GatewayControl(app.store, app.mirror, app.settings, run_dir, logging.getLogger("nebula.gateway")) as control:
        yield control


@asynccontextmanager
async def _serving(gateway: GatewayControl) -> AsyncIterator[None]:
    """Run the workers; at the end they finish what they have."""
    async with background(gateway.run()):
        try:
            yield
        finally:
            await gateway.retire()


@asynccontextmanager
async def _scheduler(app: App) -> AsyncIterator[None]:
    logger = logging.getLogger("nebula.scheduler")
    loop = SchedulerLoop(
        app.store, app.mirror, app.engines, app.settings, logger, time.monotonic, app.placement(), app.scalers(), app.scaler(), app.metrics
    )
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
        logger=logging.getLogger("nebula.node"),
        clock=time.monotonic,
        http=app.http,
        version=VERSION,
        metrics=app.metrics,
        devices=app.devices(),
    )
    try:
        async with background(daemon.run()):
            yield
    finally:
        if owns_engines:
            await daemon.stop_engines()


def _on_stop_signal(stopped: asyncio.Future[None], running: asyncio.Task[None]) -> None:
    """The first SIGTERM or SIGINT asks for an orderly end, a second one cancels whatever that waits for."""

    def stop() -> None:
        if stopped.done():
            running.cancel()
        else:
            stopped.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
