"""Telling the store about this node: its heartbeat under a lease, its endpoints and their stats without one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from nebula_core.errors import LeaseLost
from nebula_core.interfaces import Store
from nebula_core.node.publisher import Publisher, Values
from nebula_core.store import keys
from nebula_core.store.lease import LeaseKeeper
from nebula_core.types import NodeStatus


class Reporter:
    """Reports whenever there is something new. While the store does not answer it tries again at each `wake`.

    `values` makes what the store shall hold now; `settled` is called when it does.
    """

    def __init__(
        self,
        store: Store,
        status: NodeStatus,
        lease_s: float,
        retry_s: float,
        logger: logging.Logger,
        values: Callable[[], Values],
        settled: Callable[[], None],
    ) -> None:
        self._store, self._lease_s, self._retry_s, self._logger = store, lease_s, retry_s, logger
        self.tell(status)
        self._publisher = Publisher(store, status.node_id, logger)
        self._values = values
        self._settled = settled
        self._keeper: LeaseKeeper | None = None
        self._something = asyncio.Event()

    def wake(self) -> None:
        """There may be something new."""
        self._something.set()

    def see(self, revisions: Mapping[str, int]) -> None:
        """Keys of endpoints were seen to change in the store; 0: they are gone. If that was somebody else, they are written anew."""
        if revisions:
            self._publisher.see(revisions)
            self.wake()

    def tell(self, status: NodeStatus) -> None:
        """What the node says of itself from now on; `wake` has it written."""
        self._status = {keys.node(status.node_id): status}

    async def run(self) -> None:
        """Report until cancelled. The node's heartbeat stands for the rest of its lease then, so that a restart moves no replica."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hold_lease())
            tasks.create_task(self._report())

    async def report_last(self, values: Values) -> None:
        """Report once more, after `run` has ended, and end the heartbeat: this node has nothing to come back to."""
        await self._publisher.publish(values, {}, "")
        if self._keeper is not None:
            await self._keeper.revoke()

    async def _hold_lease(self) -> None:
        async with LeaseKeeper(self._store, self._lease_s, self._logger, revokes=False) as keeper:
            self._keeper = keeper
            lease = keeper.lease
            while True:
                self.wake()
                lease = await keeper.replaced(lease)

    async def _report(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            lease = self._keeper.lease if self._keeper else ""
            try:
                if await self._publisher.publish(self._values(), self._status, lease):
                    self._settled()
            except LeaseLost:
                await self._await_lease(lease)

    async def _await_lease(self, lost: str) -> None:
        """Have a new lease taken at once; if that takes long, look again all the same."""
        try:
            async with asyncio.timeout(self._retry_s):
                if self._keeper is not None:
                    await self._keeper.replaced(lost)
        except TimeoutError:
            return
        finally:
            self.wake()
