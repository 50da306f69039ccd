"""Model requests for tests: made as a table of the settings is, and read back from a store."""

from __future__ import annotations

from typing import Any

from nebula_core import desired
from nebula_core.interfaces import Store
from nebula_core.store import codec, keys
from nebula_core.testing.engines import FakeEngine
from nebula_core.types import ModelRequest

ENGINES = {"fake": FakeEngine()}


def request(model_uid: str = "m", **table: Any) -> ModelRequest:
    """What a `[[models]]` table for the engine `fake` asks for. Raises `InvalidModelRequest`."""
    return desired.to_request(desired.parse({"model_uid": model_uid, "engine": "fake", **table}), ENGINES)


async def stored(store: Store, model_uid: str = "m") -> ModelRequest | None:
    """The model request that lies in the store; `None` if there is none."""
    entry = await store.get(keys.model_request(model_uid))
    return None if entry is None else codec.decode(ModelRequest, entry.value)
