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
DOUBT_S = 1.0
"""The same, for a store that is known to be silent."""
NOTHING = Listing((), 0)


@dataclass(frozen=True)
class Picture:
    """The store's values at one moment, listed ones by prefix; or as they were last known, if the store is silent."""

    mirror: Mirror
    listed: Mapping[str, Listing]
    silence: str = ""
    """Why the listings are not of now; empty: they are."""
    silent_since: float | None = None
    """Since when the store does not answer, in Unix seconds; `None`: it does."""
    listed_at: float | None = None
    """When the listings were taken, in Unix seconds; `None`: never."""
    never_read: tuple[str, ...] = ()
    """Prefixes of which nothing is known."""

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
        self._taken_at: float | None = None
        self._silence = ""
        self._silent_since: float | None = None
        self._asked_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def picture(self) -> Picture:
        """The store as it stands, or stood within the last second. Raises `StoreUnavailable` if it must be asked and does not answer."""
        picture = await self.last_picture()
        if picture.silence:
            raise StoreUnavailable(picture.silence)
        return picture

    async def last_picture(self) -> Picture:
        """The same, or the last that was known; raises `StoreUnavailable` only if nothing ever was."""
        if self._prefixes:
            async with self._one_at_a_time:
                if self._clock() - self._asked_at >= FRESH_S:
                    await self._ask()
        if self._silence and self._taken_at is None and not self._mirror.synced:
            raise StoreUnavailable(self._silence)
        never_read = tuple(self._prefixes) if self._taken_at is None else ()
        listed = {**dict.fromkeys(never_read, NOTHING), **self._listed}
        return Picture(self._mirror, listed, self._silence, self._since(), self._taken_at, never_read)

    async def forget(self) -> None:
        """Something was written: the next picture is a new one."""
        async with self._one_at_a_time:  # a listing under way may have missed it
            self._asked_at = float("-inf")

    def _since(self) -> float | None:
        return min((since for since in (self._silent_since, self._mirror.silent_since) if since is not None), default=None)

    async def _ask(self) -> None:
        patience_s = self._patience_s if self._since() is None else min(DOUBT_S, self._patience_s)
        try:
            async with asyncio.timeout(patience_s):
                self._listed = {prefix: await self._store.list(prefix) for prefix in self._prefixes}
            self._taken_at, self._silence, self._silent_since = time.time(), "", None
        except TimeoutError:
            self._fell_silent(f"did not answer within {patience_s:g} s")
        except StoreUnavailable as error:
            self._fell_silent(f"does not answer: {error}")
        self._asked_at = self._clock()

    def _fell_silent(self, how: str) -> None:
        self._silence = f'the store "{self._name}" ([store] use) {how}'
        self._silent_since = self._silent_since or time.time()


def _readable(listing: Listing, type_: type[V]) -> dict[str, V]:
    found = {}
    for entry in listing.entries:
        try:
            found[entry.key] = decode(type_, entry.value)
        except StoreError:
            continue  # those who follow it have it in their logs
    return found
