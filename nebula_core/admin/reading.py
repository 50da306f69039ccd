"""What the admin API reads of the store: from the mirror what this process follows anyway, and by a listing, when asked, the rest.

A role follows only what it decides by. If each of a thousand nodes followed the whole fleet for the sake of its admin API, every sample
of every engine would go out a thousand times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nebula_core.errors import StoreError, StoreUnavailable
from nebula_core.interfaces import Entry, Listing, Store
from nebula_core.store.codec import V, decode
from nebula_core.store.mirror import Mirror

FRESH_S = 1.0
"""How long a listing counts as new, and a store that did not answer as silent: whoever polls costs one listing a second."""
PATIENCE_S = 5.0
"""How long the store may take for all listings together."""


@dataclass(frozen=True)
class Picture:
    """The store's values at one moment, listed ones by prefix."""

    mirror: Mirror
    listed: Mapping[str, Listing]

    def entry(self, key: str) -> Entry | None:
        """The entry, or `None`."""
        listing = next((listing for prefix, listing in self.listed.items() if key.startswith(prefix)), None)
        return self.mirror.entry(key) if listing is None else next((entry for entry in listing.entries if entry.key == key), None)

    def values(self, prefix: str, type_: type[V]) -> dict[str, V]:
        """Key → value of all keys under `prefix` that can be read as a `type_`, by key."""
        listing = self.listed.get(prefix)
        return self.mirror.values(prefix, type_) if listing is None else _readable(listing, type_)


class Reader:
    """Takes pictures of `prefixes`, of which the mirror follows `followed`; `clock` gives monotonic seconds, `name` is the store's."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        followed: Collection[str],
        prefixes: Sequence[str],
        name: str,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store, self._mirror, self._name, self._clock, self._patience_s = store, mirror, name, clock, patience_s
        self._prefixes = [prefix for prefix in prefixes if prefix not in followed]
        self._listed: dict[str, Listing] = {}
        self._silence = ""
        self._listed_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def picture(self) -> Picture:
        """The store as it stands, or stood within the last second. Raises `StoreUnavailable` if it must be asked and does not answer."""
        if self._prefixes:
            async with self._one_at_a_time:
                if self._clock() - self._listed_at >= FRESH_S:
                    await self._list()
        if self._silence:
            raise StoreUnavailable(self._silence)
        return Picture(self._mirror, self._listed)

    async def forget(self) -> None:
        """Something was written: the next picture is a new one."""
        async with self._one_at_a_time:  # a listing under way may have missed it
            self._listed_at = float("-inf")

    async def _list(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                self._listed = {prefix: await self._store.list(prefix) for prefix in self._prefixes}
            self._silence = ""
        except TimeoutError:
            self._silence = f'the store "{self._name}" ([store] use) did not answer within {self._patience_s:g} s'
        except StoreUnavailable as error:
            self._silence = f'the store "{self._name}" ([store] use) does not answer: {error}'
        self._listed_at = self._clock()


def _readable(listing: Listing, type_: type[V]) -> dict[str, V]:
    found = {}
    for entry in listing.entries:
        try:
            found[entry.key] = decode(type_, entry.value)
        except StoreError:
            continue  # those who follow it have it in their logs
    return found
