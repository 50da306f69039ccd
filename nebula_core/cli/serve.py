"""`nebula up`, `gateway`, `scheduler` and `node`: running roles in the foreground, each with the admin API and `/metrics` beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nebula_core.cli.options import SettingsFile, settings_of
from nebula_core.roles import Role

Strategy = Annotated[
    str | None, typer.Option("--routing-strategy", metavar="NAME", help="Routing strategy, instead of `\\[router] strategy`.")
]
Host = Annotated[str | None, typer.Option(metavar="HOST", help="Address of the public port, instead of `\\[gateway] host`.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="The public port, instead of `\\[gateway] port`.")]
AdminPort = Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the admin API and /metrics, instead of `\\[admin] port`.")]
Level = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--log-level", help="How much to log, instead of `\\[log] level`."),
]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Serve what starts, even if the engine of a declared model dies at start.")]


def up(
    settings: SettingsFile = None,
    routing_strategy: Strategy = None,
    host: Host = None,
    port: Port = None,
    admin_port: AdminPort = None,
    log_level: Level = None,
    keep_going: KeepGoing = False,
) -> None:
    """Run a whole Nebula on this machine: gateway, scheduler and node."""
    overrides = {**_common(routing_strategy, admin_port, log_level), "gateway.host": host, "gateway.port": port}
    _serve(frozenset(Role), settings, overrides, keep_going)


def gateway(
    settings: SettingsFile = None,
    routing_strategy: Strategy = None,
    host: Host = None,
    port: Port = None,
    admin_port: AdminPort = None,
    log_level: Level = None,
) -> None:
    """Run a gateway: the public port."""
    overrides = {**_common(routing_strategy, admin_port, log_level), "gateway.host": host, "gateway.port": port}
    _serve(frozenset({Role.GATEWAY}), settings, overrides)


def scheduler(
    settings: SettingsFile = None, routing_strategy: Strategy = None, admin_port: AdminPort = None, log_level: Level = None
) -> None:
    """Run a scheduler: it decides which replicas run where."""
    _serve(frozenset({Role.SCHEDULER}), settings, _common(routing_strategy, admin_port, log_level))


def node(settings: SettingsFile = None, routing_strategy: Strategy = None, admin_port: AdminPort = None, log_level: Level = None) -> None:
    """Run this machine's node daemon: it starts and watches engines."""
    _serve(frozenset({Role.NODE}), settings, _common(routing_strategy, admin_port, log_level))


def _common(routing_strategy: str | None, admin_port: int | None, log_level: str | None) -> dict[str, Any]:
    return {"router.strategy": routing_strategy, "admin.port": admin_port, "log.level": log_level}


def _serve(roles: frozenset[Role], file: Path | None, overrides: Mapping[str, Any], keep_going: bool = False) -> None:
    settings = settings_of(file, overrides)
    import uvloop

    from nebula_core import serve
    from nebula_core.cli import logs, progress

    with progress.shown() as shown, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        logs.configure(settings.log.level, shown.console)
        try:
            runner.run(serve.serve(roles, settings, shown, keep_going=keep_going))
        except asyncio.CancelledError as error:  # by a second Ctrl-C
            raise KeyboardInterrupt from error
