from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator

import pytest

from nebula_core.store.embedded import EmbeddedSettings, EmbeddedStore


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(tmp_path, EmbeddedSettings(), time.monotonic, logging.getLogger("test")) as store:
        yield store
