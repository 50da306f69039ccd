"""The embedded store: one process, no server. Keys without a lease lie in SQLite, keys under a lease in memory only.

Everything is read from memory. Writes pass one after another through a single task, which plans a transaction, has a thread commit
it to the disk, and only then shows it to readers and watches; so a commit never blocks the event loop, order is strict, a write
whose caller was cancelled is still whole, and a refusal of the disk leaves memory as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from pydantic import Field

from nebula_core.background import background
from nebula_core.errors import StoreError, StoreUnavailable
from nebula_core.hookspecs import hookimpl
from nebula_core.interfaces import Batch, Entry, Listing, Store, Unchanged, Write, check_transaction
from nebula_core.provider import Context, PluginSettings, Provider
from nebula_core.store.database import Database
from nebula_core.store.filelock import locked
from nebula_core.store.history import History, Watch
from nebula_core.store.state import Change, State

_HELD = (
    "the embedded store in {folder} is held by process {holder}. It serves one process: `nebula up` runs all roles in one; "
    'for roles of their own, on one machine or several, set `[store] use = "etcd"`.'
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESERVE = 10_000
"""Revisions set aside on the disk at a time: those of leased writes are never stored themselves."""
_TICK_S = 0.25
"""How late a lease may end."""
_STALL_S = 1.0
"""A tick later than this means that the process stood still, and with it everyone who would have kept a lease alive."""


class EmbeddedSettings(PluginSettings):
    """`[store_embedded]`."""

    history_events: int = Field(10_000, ge=1)
    """Changes kept in memory for watches; one that falls further behind lists again."""
    history_bytes: int = Field(64 * 1024 * 1024, ge=1)
    """Size of the keys and values among them."""


class EmbeddedStore(Store):
    """The store of one process, in the folder `folder`.

    Revisions never go back: on opening, counting goes on above all that may have been handed out before. `clock` gives monotonic
    seconds. Opening raises `StoreLocked` while another process has it open, `StoreError` if its file is damaged.
    """

    def __init__(self, folder: Path, settings: EmbeddedSettings, clock: Callable[[], float], logger: logging.Logger) -> None:
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._logger = logger
        self._files = ExitStack()
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._watches: set[Watch] = set()
        self._is_open = False

    async def __aenter__(self) -> EmbeddedStore:
        async with AsyncExitStack() as stack:
            self._thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="store"))
            stack.push_async_callback(self._in_thread, self._files.close)
            await self._in_thread(self._open_files)
            self._writer, _ = await stack.enter_async_context(background(self._write(), self._expire()))
            stack.push_async_callback(self._stop)
            self._is_open = True
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def get(self, key: str) -> Entry | None:
        """The entry, or `None`."""
        self._check_open()
        return self._state.get(key)

    async def list(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, and the revision this is true at."""
        self._check_open()
        return self._state.listing(prefix)

    async def transact(self, writes: Sequence[Write], conditions: Sequence[Unchanged] = ()) -> int | None:
        """Apply all writes or none. Raises `StoreUnavailable` if the disk refuses; nothing has changed then."""
        check_transaction(writes, conditions)
        return await self._submit(partial(self._state.plan, writes, conditions))

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """Follow `prefix` from the history on. The iterator raises `Compacted` also when its reader falls behind what is kept."""
        self._check_open()
        watch = Watch(self._history, prefix, after, self._check_open)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    async def grant(self, ttl_s: float) -> str:
        """A new lease; it ends at most a quarter of a second late."""
        self._check_open()
        return self._state.grant(ttl_s, self._clock())

    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises `LeaseLost` if it has ended."""
        self._check_open()
        self._state.keep_alive(lease, self._clock())

    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys; no error if it has ended."""
        await self._submit(partial(self._state.plan_end, lease))

    def _open_files(self) -> None:
        path = self._folder / "store.db"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files.enter_context(locked(self._folder / "lock", _HELD.replace("{folder}", str(self._folder))))
            self._database = self._files.enter_context(closing(Database(path)))
        except OSError as error:
            raise StoreError(f"the store's file {path} cannot be opened: {error}; mend its permissions, or set another data_dir") from error
        start = self._database.reserved() + 1  # above all that was handed out: whoever watches from before a restart must list again
        self._reserved = start + _RESERVE
        self._database.commit([], [], self._reserved)
        self._state = State(self._database.entries(), start)
        self._history = History(start, self._settings.history_events, self._settings.history_bytes)

    async def _stop(self) -> None:
        """Let the writes that were accepted finish, then end the watches."""
        self._is_open = False
        self._jobs.put_nowait(None)
        await asyncio.wait([self._writer])
        for watch in self._watches:
            watch.woken.set()

    async def _submit(self, plan: Callable[[], Change | None]) -> int | None:
        self._check_open()
        job = _Job(plan, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.revision

    async def _write(self) -> None:
        try:
            await self._write_all()
        finally:  # nobody may wait for a writer that was cancelled
            self._is_open = False
            while not self._jobs.empty():
                if (job := self._jobs.get_nowait()) is not None and not job.revision.done():
                    job.revision.set_exception(StoreUnavailable("the embedded store has been closed"))

    async def _write_all(self) -> None:
        while (job := await self._jobs.get()) is not None:
            if job.revision.cancelled():
                continue
            try:
                revision = await self._carry_out(job.plan)
            except Exception as error:  # noqa: BLE001 - it is the caller's to handle; the writer goes on with the next
                if not job.revision.done():
                    job.revision.set_exception(error)
            else:
                if not job.revision.done():
                    job.revision.set_result(revision)

    async def _carry_out(self, plan: Callable[[], Change | None]) -> int | None:
        change = plan()
        if change is None:
            return None
        if change.batch.events:
            await self._save(change)
        self._state.apply(change)
        if change.batch.events:
            self._publish(change.batch)
        return self._state.revision

    async def _save(self, change: Change) -> None:
        """Bring to the disk what a change means for it: nothing, if only leased keys change and revisions are in reserve."""
        puts = [event.entry for event in change.batch.events if event.entry is not None and not event.entry.leased]
        stay = {entry.key for entry in puts}
        deletes = [event.key for event in change.batch.events if event.key not in stay and self._is_saved(event.key)]
        revision = change.batch.revision
        reserved = self._reserved if revision <= self._reserved else revision + _RESERVE
        if puts or deletes or reserved != self._reserved:
            await self._in_thread(self._database.commit, puts, deletes, reserved)
            self._reserved = reserved

    def _is_saved(self, key: str) -> bool:
        entry = self._state.get(key)
        return entry is not None and not entry.leased

    def _publish(self, batch: Batch) -> None:
        self._history.append(batch)
        for watch in self._watches:
            watch.woken.set()

    async def _expire(self) -> None:
        """End leases whose time is over. After a stall all get the time back that nobody could keep them alive in."""
        while True:
            slept_at = self._clock()
            await asyncio.sleep(_TICK_S)
            late = self._clock() - slept_at - _TICK_S
            if late > _STALL_S:
                self._logger.warning("the process stood still for %.1f s; leases are extended by as much", late)
                self._state.extend(late)
            await self._end_due_leases()

    async def _end_due_leases(self) -> None:
        for lease in self._state.due(self._clock()):
            try:
                await self._submit(partial(self._state.plan_expiry, lease, self._clock()))
            except StoreUnavailable as error:  # tried again at the next tick
                self._logger.warning("the lease %s could not be ended: %s", lease, error)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable(f"the embedded store in {self._folder} is closed")

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


@dataclass(frozen=True)
class _Job:
    plan: Callable[[], Change | None]
    revision: asyncio.Future[int | None]


def _build(context: Context, settings: EmbeddedSettings) -> EmbeddedStore:
    return EmbeddedStore(context.data_dir, settings, context.clock, context.logger)


@hookimpl
def nebula_register_stores() -> list[Provider[Store]]:
    """Offer the store `embedded`."""
    return [Provider(name="embedded", build=_build, settings_type=EmbeddedSettings)]
