"""Keeping a lease alive, and getting a new one when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack

from nebula_core.background import background
from nebula_core.errors import LeaseLost, StoreError, StoreUnavailable
from nebula_core.interfaces import Store
from nebula_core.store.mirror import pause_s

RENEWALS = 3
"""How often a lease is renewed within its time. What was last renewed at the same moment may end by a third of that apart."""


class LeaseKeeper:
    """Holds a lease for as long as its context; at the end it is revoked, or left to run out by itself (`revokes=False`).

    `lease` is what to write under now. A lease can be lost (the store was gone for longer than its time): a new one is taken then, and
    since all keys went with the old one, the owner must write them again:

        async with LeaseKeeper(store, 30, logger) as keeper:
            lease = keeper.lease
            while True:
                await write_all_keys(lease)
                lease = await keeper.replaced(lease)

    While the store does not answer, entering waits for it: failures are logged, once, and tried again, then and later.
    """

    def __init__(self, store: Store, ttl_s: float, logger: logging.Logger, *, revokes: bool = True) -> None:
        self.lease = ""
        self._revokes = revokes
        self._store = store
        self._ttl_s = ttl_s
        self._logger = logger
        self._look = asyncio.Event()
        self._new = asyncio.Condition()

    async def __aenter__(self) -> LeaseKeeper:
        async with AsyncExitStack() as stack:
            self.lease = await self._first()
            if self._revokes:
                stack.push_async_callback(self.revoke)
            await stack.enter_async_context(background(self._keep()))
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def replaced(self, lease: str) -> str:
        """Wait until the lease is another one than `lease`, and return that. Has the keeper look at once: call it after `LeaseLost`."""
        if self.lease == lease:
            self._look.set()
        async with self._new:
            await self._new.wait_for(lambda: self.lease != lease)
        return self.lease

    async def revoke(self) -> None:
        """End the lease, and with it all that was written under it. Where the store does not answer, it ends by itself."""
        try:
            async with asyncio.timeout(1.0):
                await self._store.revoke(self.lease)
        except (StoreError, TimeoutError) as error:
            self._logger.debug("the lease %s could not be revoked and ends by itself: %s", self.lease, error)

    async def _first(self) -> str:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(self._ttl_s / RENEWALS):  # a call that hangs must not keep another from succeeding
                    return await self._store.grant(self._ttl_s)
            except (StoreUnavailable, TimeoutError) as error:
                if not failures:
                    self._logger.warning("no lease can be had now, waiting for the store: %s", str(error) or "no answer")
                failures += 1
            await asyncio.sleep(pause_s(failures, random.random()))

    async def _keep(self) -> None:
        failures = 0
        while True:
            await self._rest(self._ttl_s / RENEWALS if not failures else min(self._ttl_s / RENEWALS, pause_s(failures, random.random())))
            try:
                async with asyncio.timeout(self._ttl_s / RENEWALS):  # a call that hangs must leave time for another
                    await self._renew()
                failures = 0
            except (StoreUnavailable, TimeoutError) as error:
                if not failures:
                    self._logger.warning("the lease %s cannot be kept alive now: %s", self.lease, str(error) or "no answer")
                failures += 1

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._look.wait()
        except TimeoutError:
            pass  # time to renew
        self._look.clear()

    async def _renew(self) -> None:
        try:
            await self._store.keep_alive(self.lease)
        except LeaseLost:
            self._logger.warning("the lease %s was lost; taking a new one", self.lease)
            lease = await self._store.grant(self._ttl_s)
            async with self._new:
                self.lease = lease
                self._new.notify_all()
