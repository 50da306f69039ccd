"""The store `etcd`: the control plane's state on an etcd v3 cluster, for a fleet of several machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nebula_core import Context, Provider, Store, hookimpl
from nebula_store_etcd.settings import EtcdSettings

if TYPE_CHECKING:
    import typer

# Read by gRPC when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # else its fork handlers now and then abort a child before that runs its program
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it writes a line of its own for every handshake that fails


def build(context: Context, settings: EtcdSettings) -> Store:
    """The store, not yet opened."""
    from nebula_store_etcd.store import EtcdStore  # gRPC takes 0.1 s to import, and every command of `nebula` loads this plugin

    return EtcdStore(settings, context.logger, context.clock)


@hookimpl
def nebula_register_stores() -> list[Provider[Store]]:
    """Offer the store `etcd`."""
    return [Provider(name="etcd", build=build, settings_type=EtcdSettings)]


@hookimpl
def nebula_add_cli(cli: typer.Typer) -> None:
    """Add `nebula etcd`."""
    from nebula_store_etcd.commands import make_group

    cli.add_typer(make_group(), name="etcd")
