"""What a gateway says of itself in the store, under a lease: where it listens, the table it routes by, what is in flight through it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import NoReturn

from nebula_core.errors import LeaseLost, StoreError
from nebula_core.interfaces import Put, Store
from nebula_core.store import codec, keys
from nebula_core.store.lease import LeaseKeeper
from nebula_core.store.mirror import Mirror, pause_s
from nebula_core.types import GatewayStatus

HEARTBEAT_S = 3.0
PROMPT_S = 0.1
"""Shortest time between two reports of what a drain waits for."""


class Heartbeat:
    """Keeps `/gateways/{gateway_id}` as `status` says; `changed` waits until that may differ, for so many seconds at most.

    The mirror, which must follow the gateways, shows whether it still is there as it was written: somebody may have deleted it, or another
    gateway may be called the same.
    """

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        lease_s: float,
        logger: logging.Logger,
        status: Callable[[], GatewayStatus],
        changed: Callable[[float], Awaitable[None]],
        every_s: float = HEARTBEAT_S,
    ) -> None:
        self._store, self._mirror, self._lease_s, self._logger = store, mirror, lease_s, logger
        self._status, self._changed, self._every_s = status, changed, every_s
        self._written: tuple[str, GatewayStatus] | None = None
        """Lease and status as last written."""
        self._revision, self._due = 0, -inf
        self._is_silent = False
        self._has_namesake = False

    async def run(self) -> NoReturn:
        """Report at once what a drain waits for, and the rest every few seconds. While the store does not answer, try ever less often."""
        async with LeaseKeeper(self._store, self._lease_s, self._logger) as keeper:
            failures = 0
            while True:
                lease = keeper.lease
                try:
                    await self._report(lease)
                except LeaseLost:
                    await _new_lease(keeper, lease)
                except StoreError as error:
                    self._say_silent(error)
                    failures += 1
                    await asyncio.sleep(pause_s(failures, random.random()))
                else:
                    failures = 0
                    await asyncio.sleep(PROMPT_S)
                    await self._changed(self._every_s)
        raise AssertionError("the loop above has no end")

    async def _report(self, lease: str) -> None:
        status, now = self._status(), time.monotonic()
        overdue = now >= self._due
        if not must_write((lease, status), self._written, overdue=overdue) and (not overdue or self._stands(status)):
            return
        revision = await self._store.transact([Put(keys.gateway(status.gateway_id), codec.encode(status), lease)])
        assert revision is not None, "a write without conditions is done"
        self._written, self._revision, self._due = (lease, status), revision, now + self._every_s
        if self._is_silent:
            self._logger.info("the store takes this gateway's heartbeat again")
        self._is_silent = False

    def _stands(self, status: GatewayStatus) -> bool:
        """Whether the store still says what was written, as far as is known here."""
        key = keys.gateway(status.gateway_id)
        entry, found = self._mirror.entry(key), self._mirror.get(key, GatewayStatus)
        if found is not None and found.peers_key != status.peers_key and entry is not None and entry.mod_revision > self._revision:
            self._say_namesake(found)
        return found == status or not self._mirror.connected

    def _say_silent(self, error: StoreError) -> None:
        """Once per outage."""
        if not self._is_silent:
            self._logger.warning("the store does not take this gateway's heartbeat, it serves on: %s", error)
        self._is_silent = True

    def _say_namesake(self, other: GatewayStatus) -> None:
        if not self._has_namesake:
            self._logger.error(
                'two gateways are called "%s": the other serves at %s and hears others at %s; give one another name, `[gateway] name`',
                *(other.gateway_id, other.address, other.peers),
            )
        self._has_namesake = True


async def _new_lease(keeper: LeaseKeeper, lost: str) -> None:
    """Have a new lease taken at once; if that takes long, look again all the same."""
    with suppress(TimeoutError):
        async with asyncio.timeout(HEARTBEAT_S):
            await keeper.replaced(lost)


def must_write(new: tuple[str, GatewayStatus], written: tuple[str, GatewayStatus] | None, *, overdue: bool) -> bool:
    """At once under a new lease, when a drain may wait for it, or a model is called that has no replica; other demand every few seconds."""
    if written is None or new[0] != written[0]:
        return True
    now, before = new[1], written[1]
    drains = (now.applied_revision, now.draining.keys()) != (before.applied_revision, before.draining.keys())
    return drains or bool(_called(now) - _called(before)) or (overdue and now != before)


def _called(status: GatewayStatus) -> set[str]:
    """The models that requests wait for."""
    return {uid for uid, traffic in (status.traffic or {}).items() if traffic.waiting}
