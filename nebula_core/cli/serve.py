"""`nebula up`, `gateway`, `scheduler` and `node`: running roles in the foreground."""

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
    log_level: Level = None,
    keep_going: KeepGoing = False,
) -> None:
    """Run a whole Nebula on this machine: gateway, scheduler and node."""
    overrides = {"router.strategy": routing_strategy, "gateway.host": host, "gateway.port": port, "log.level": log_level}
    _serve(frozenset(Role), settings, overrides, keep_going)


def gateway(
    settings: SettingsFile = None,
    routing_strategy: Strategy = None,
    host: Host = None,
    port: Port = None,
    log_level: Level = None,
) -> None:
    """Run a gateway: the public port, and the admin API beside it."""
    overrides = {"router.strategy": routing_strategy, "gateway.host": host, "gateway.port": port, "log.level": log_level}
    _serve(frozenset({Role.GATEWAY}), settings, overrides)


def scheduler(settings: SettingsFile = None, routing_strategy: Strategy = None, log_level: Level = None) -> None:
    """Run a scheduler: it decides which replicas run where."""
    _serve(frozenset({Role.SCHEDULER}), settings, {"router.strategy": routing_strategy, "log.level": log_level})


def node(settings: SettingsFile = None, routing_strategy: Strategy = None, log_level: Level = None) -> None:
    """Run this machine's node daemon: it starts and watches engines."""
    _serve(frozenset({Role.NODE}), settings, {"router.strategy": routing_strategy, "log.level": log_level})


def _serve(roles: frozenset[Role], file: Path | None, overrides: Mapping[str, Any], keep_going: bool = False) -> None:
    settings = settings_of(file, overrides)
    import uvloop

    from nebula_core import serve
    from nebula_core.cli import logs, progress

    with progress.shown() as shown, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        logs.configure(settings.log.level, shown.console)
        runner.run(serve.serve(roles, settings, shown, keep_going=keep_going))
