"""Every hook: plain functions, called once at start. Importing and registering have no effect: that begins in `build` or a lifespan."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer
    from fastapi import FastAPI

    from nebula_core.app import App
    from nebula_core.interfaces import Devices, Engine, Exporter, Placement, Probe, Retry, Runtime, ScalingPolicy, Scraper, Store, Strategy
    from nebula_core.provider import Provider
    from nebula_core.roles import Role

hookspec = pluggy.HookspecMarker("nebula")
hookimpl = pluggy.HookimplMarker("nebula")


@hookspec
def nebula_register_strategies() -> list[Provider[Strategy]]:  # type: ignore[empty-body]
    """Return routing strategies; `[router] strategy` or a model's chooses one. Built in gateway workers, and in control processes."""


@hookspec
def nebula_register_retries() -> list[Provider[Retry]]:  # type: ignore[empty-body]
    """Return retry policies; `[gateway] retry` chooses one. Built in gateway workers."""


@hookspec
def nebula_register_engines() -> list[Provider[Engine]]:  # type: ignore[empty-body]
    """Return engines: what to launch for a model; a model's `engine` chooses one. Built in every control process."""


@hookspec
def nebula_register_runtimes() -> list[Provider[Runtime]]:  # type: ignore[empty-body]
    """Return runtimes: how an engine is launched; `[node] runtime` chooses one. Built in nodes."""


@hookspec
def nebula_register_probes() -> list[Provider[Probe]]:  # type: ignore[empty-body]
    """Return health probes; an engine names the one that suits it. Built in nodes."""


@hookspec
def nebula_register_scrapers() -> list[Provider[Scraper]]:  # type: ignore[empty-body]
    """Return scrapers of engine metrics; an engine names the one that suits it. Built in nodes."""


@hookspec
def nebula_register_devices() -> list[Provider[Devices]]:  # type: ignore[empty-body]
    """Return readers of GPUs; `[node] devices` chooses among them. Built in nodes."""


@hookspec
def nebula_register_exporters() -> list[Provider[Exporter]]:  # type: ignore[empty-body]
    """Return metrics exporters; the admin port serves the page of each. Built in every control process."""


@hookspec
def nebula_register_placements() -> list[Provider[Placement]]:  # type: ignore[empty-body]
    """Return placement policies; `[scheduler] placement` chooses one. Built in schedulers."""


@hookspec
def nebula_register_scalers() -> list[Provider[ScalingPolicy]]:  # type: ignore[empty-body]
    """Return scaling policies; `[scheduler] scaler` or a model's chooses one. Built in schedulers."""


@hookspec
def nebula_register_stores() -> list[Provider[Store]]:  # type: ignore[empty-body]
    """Return stores; `[store] use` chooses one. Built once per control process."""


@hookspec
def nebula_lifespan(app: App, role: Role) -> AbstractAsyncContextManager[None]:  # type: ignore[empty-body]
    """Return an async context manager that is entered when a role has started and left before it stops. `app` has what it needs."""


@hookspec
def nebula_add_routes(app: FastAPI) -> None:
    """Add routes to the admin API, behind its token like all others. When requests come, `app.state.nebula` is the `App`."""


@hookspec
def nebula_add_cli(cli: typer.Typer) -> None:
    """Add commands to `nebula`."""
