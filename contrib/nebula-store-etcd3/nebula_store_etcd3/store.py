"""The store of `nebula-store-etcd`, with its calls made by the client `etcd3`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc
from nebula_store_etcd.store import EtcdStore

from nebula_store_etcd3.member import Etcd3Member
from nebula_store_etcd3.settings import Etcd3Settings


class Etcd3Store(EtcdStore):
    """The keys under `[store_etcd3] prefix` of the etcd at `[store_etcd3] endpoints`. `clock` gives monotonic seconds."""

    def __init__(self, settings: Etcd3Settings, logger: logging.Logger, clock: Callable[[], float]) -> None:
        def connect(address: str, credentials: grpc.ChannelCredentials | None) -> Etcd3Member:
            return Etcd3Member(settings, credentials)

        super().__init__(settings, logger, clock, connect)
