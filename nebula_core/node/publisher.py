"""Writing to the store what a node says of itself: only what changed, in as few transactions as that takes, again if it failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from nebula_core.errors import LeaseLost, StoreError
from nebula_core.interfaces import MAX_OPERATIONS, Delete, Put, Store, Write
from nebula_core.store import keys
from nebula_core.store.codec import encode
from nebula_core.store.mirror import Mirror
from nebula_core.types import EndpointStats, Value

Values = Mapping[str, Value | None]
"""Key → value; `None`: there shall be no such key."""


class Publisher:
    """Knows what was last written. Not for two tasks at once."""

    def __init__(self, store: Store, mirror: Mirror, logger: logging.Logger) -> None:
        self._store = store
        self._mirror = mirror
        self._logger = logger
        self._written: dict[str, Value | None] = {}
        self._leases: dict[str, str] = {}
        self._is_silent = False

    async def publish(self, values: Values, leased: Values, lease: str) -> bool:
        """Bring the store to `values`, and to `leased` under `lease` if there is one; false if it does not answer.

        What is leased is written first. What there is of one replica is never torn apart. Raises `LeaseLost` if that lease has ended.
        """
        wanted = {**(leased if lease else {}), **values}
        leases = dict.fromkeys(leased, lease) if lease else {}
        changed = [key for key in wanted if self._differs(key, wanted[key]) or leases.get(key) != self._leases.get(key)]
        if not changed:
            return True
        for key in changed:
            self._written.pop(key, None)  # until it has worked, nothing is known of what is there
        for batch in batches(changed, MAX_OPERATIONS):
            if not await self._transact([self._write(key, wanted[key], leases.get(key)) for key in batch]):
                return False
        self._written, self._leases = wanted, leases
        return True

    def _differs(self, key: str, value: Value | None) -> bool:
        if key not in self._written:
            return value is not None or self._mirror.entry(key) is not None
        return not _same(self._written[key], value)

    def _write(self, key: str, value: Value | None, lease: str | None) -> Write:
        if value is None:
            return Delete(key)
        seen = None if lease else self._mirror.entry(key)
        return Put(key, encode(value, over=seen.value if seen else None), lease)

    async def _transact(self, writes: list[Write]) -> bool:
        try:
            await self._store.transact(writes)
        except LeaseLost:
            raise
        except StoreError as error:
            if not self._is_silent:
                self._logger.warning("the store takes no reports from this node, its engines go on: %s", error)
            self._is_silent = True
            return False
        if self._is_silent:
            self._logger.info("the store takes reports from this node again")
        self._is_silent = False
        return True


def batches(changed: Sequence[str], size: int) -> Iterator[list[str]]:
    """The keys in batches of at most `size`; those of one replica, which follow each other, stay together."""
    batch: list[str] = []
    for _, group in groupby(changed, lambda key: keys.replica_of(key) or key):
        together = list(group)
        if len(batch) + len(together) > size:
            yield batch
            batch = []
        batch += together
    yield batch


def _same(one: Value | None, other: Value | None) -> bool:
    """Equal but for the age of a sample: an idle engine's signals are not written again every heartbeat."""
    if isinstance(one, EndpointStats) and isinstance(other, EndpointStats):
        return msgspec.structs.replace(one, age_s=0.0) == msgspec.structs.replace(other, age_s=0.0)
    return one == other
