"""The embedded store keeps the contract of all stores."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from nebula_core.interfaces import Store
from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore
from nebula_core.testing.store import StoreContract


class TestEmbeddedStore(StoreContract):
    def open_store(self, tmp_path: Path) -> AbstractAsyncContextManager[Store]:
        return EmbeddedStore(tmp_path / "store", EmbeddedSettings(), time.monotonic, logging.getLogger("test"))
