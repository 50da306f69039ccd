"""The store `etcd3`: etcd by way of PyPI's client of that name. Whoever has the choice takes `nebula-store-etcd`."""

from __future__ import annotations

from nebula_core import Context, Provider, Store, hookimpl
from nebula_store_etcd3.settings import Etcd3Settings


def build(context: Context, settings: Etcd3Settings) -> Store:
    """The store, not yet opened."""
    from nebula_store_etcd3.store import Etcd3Store  # gRPC takes 0.1 s to import, and every command of `nebula` loads this plugin

    return Etcd3Store(settings, context.logger, context.clock)


@hookimpl
def nebula_register_stores() -> list[Provider[Store]]:
    """Offer the store `etcd3`."""
    return [Provider(name="etcd3", build=build, settings_type=Etcd3Settings)]
