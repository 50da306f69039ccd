"""The store on etcd keeps the contract of all stores."""

import logging
import time
import uuid
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd

from nebula_core import Store
from nebula_core.testing.store import StoreContract


class TestEtcdStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _use(self, shared_etcd: Etcd) -> None:
        self.etcd = shared_etcd

    def open_store(self, tmp_path: Path) -> AbstractAsyncContextManager[Store]:
        settings = EtcdSettings(endpoints=(self.etcd.endpoint,), prefix=f"/{uuid.uuid4()}")
        return EtcdStore(settings, logging.getLogger("test"), time.monotonic)
