"""A watch that outlives its connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from itertools import groupby
from typing import Any

from nebula_core import Batch, Compacted, Entry, Event, StoreUnavailable
from nebula_store_etcd.cluster import Cluster
from nebula_store_etcd.faults import Silent
from nebula_store_etcd.history import Place
from nebula_store_etcd.keyspace import Keyspace
from nebula_store_etcd.member import Stream
from nebula_store_etcd.messages import DELETED, WatchCreateRequest, WatchRequest

_PAUSE_S = 0.1


class Watch:
    """What happens under `prefix` after revision `after`, a batch per revision.

    A connection that is lost is made again, on another member if need be, and the watch goes on after the last revision it has seen. If
    that does not succeed within `patience_s` seconds it raises `StoreUnavailable`. A wait that is cancelled loses nothing.
    """

    def __init__(self, cluster: Cluster, keyspace: Keyspace, prefix: str, after: int, patience_s: float, logger: logging.Logger) -> None:
        self._cluster = cluster
        self._keyspace = keyspace
        self._prefix = prefix
        self._after = after
        self._patience_s = patience_s
        self._logger = logger
        self._place = cluster.place
        self._stream: Stream | None = None
        self._batches: deque[Batch] = deque()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Batch:
        while not self._batches:
            self._cluster.check_open()
            if self._stream is None:
                self._stream = await self._open()
            try:
                self._take(await self._stream.read())
            except Silent as error:
                self.close()
                self._logger.info("the watch of %s is cut off and goes on after revision %d: %s", self._prefix, self._after, error)
                await asyncio.sleep(_PAUSE_S)
            except BaseException:
                self.close()
                raise
        return self._batches.popleft()

    def close(self) -> None:
        """End the call to etcd."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def _open(self) -> Stream:
        """A stream from one of the members, each of which is tried at least once."""
        until = time.monotonic() + self._patience_s
        tries = 0
        while True:
            tries += 1
            try:
                stream, first = await self._cluster.open_watch(self._request())
            except Silent:
                if tries >= self._cluster.size and time.monotonic() >= until:
                    raise
                await asyncio.sleep(_PAUSE_S)
                self._cluster.check_open()
                continue
            return await self._checked(stream, first)

    def _request(self) -> Any:
        start, end = self._keyspace.range(self._prefix)
        create = WatchCreateRequest(key=start, range_end=end, start_revision=self._after + 1, progress_notify=True)
        return WatchRequest(create_request=create)

    async def _checked(self, stream: Stream, first: Any) -> Stream:
        try:
            await self._check_history(Place.of(first.header))
            self._take(first)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _check_history(self, place: Place) -> None:
        """Make sure that this is the history which `after` is a revision of: in another one etcd would wait for it in silence."""
        before = Place(self._place.cluster_id, self._place.raft_term, self._after)
        if not place.follows(before):  # as the member says; it may lag behind the others
            place = await self._cluster.barrier()
        if not place.follows(before):
            raise Compacted(f"etcd has no revision {self._after} of the history known so far: it was restored from a backup; list again")
        self._place = place

    def _take(self, answer: Any) -> None:
        if answer.compact_revision:
            raise Compacted(f"changes since revision {self._after} are no longer kept, since {answer.compact_revision} only; list again")
        if answer.canceled:
            raise StoreUnavailable(f"etcd ended the watch of {self._prefix}: {answer.cancel_reason}")
        for revision, events in groupby(answer.events, key=lambda event: event.kv.mod_revision):
            self._add(revision, [self._event(event) for event in events])
        if not answer.created and not answer.events:  # all up to here has been sent: a quiet watch need not fear compaction
            self._after = max(self._after, answer.header.revision)

    def _add(self, revision: int, events: list[Event]) -> None:
        if revision <= self._after:
            return  # etcd before 3.5.2 may repeat itself
        self._after = revision
        if known := tuple(event for event in events if event.key.startswith(self._prefix)):
            self._batches.append(Batch(revision, known))

    def _event(self, event: Any) -> Event:
        key = self._keyspace.decode(event.kv.key)
        return Event(key, None if event.type == DELETED else entry(key, event.kv))


def entry(key: str, kv: Any) -> Entry:
    """A `KeyValue` as the store's entry."""
    return Entry(key, kv.value, kv.create_revision, kv.mod_revision, leased=kv.lease != 0)
