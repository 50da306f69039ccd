"""The store on etcd."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from nebula_core import Batch, Compacted, Delete, Entry, LeaseLost, Listing, Store, StoreUnavailable, Unchanged, Write, check_transaction
from nebula_store_etcd import messages
from nebula_store_etcd.cluster import Cluster, Connect
from nebula_store_etcd.keyspace import Keyspace
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.watch import Watch, entry

_ATTEMPTS = 20
"""A write without conditions that others were faster than is sent again so many times."""


class EtcdStore(Store):
    """The keys under `[store_etcd] prefix` of an etcd cluster. `clock` gives monotonic seconds.

    Opening raises `StoreError` if the settings are wrong for good: a login, a right, a certificate, a file. An etcd that is only away is
    warned about, once; every call asks for it again and raises `StoreUnavailable` until it is there. What may be done twice is tried on
    each member, `[store_etcd] timeout_s` long; a transaction is sent once. `connect` makes members of another kind.
    """

    def __init__(self, settings: EtcdSettings, logger: logging.Logger, clock: Callable[[], float], connect: Connect | None = None) -> None:
        self._settings = settings
        self._logger = logger
        self._clock = clock
        self._keyspace = Keyspace(settings.prefix)
        self._cluster = Cluster(settings, logger, clock, connect)
        self._compacted = 0

    async def __aenter__(self) -> EtcdStore:
        await self._cluster.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cluster.__aexit__()

    async def get(self, key: str) -> Entry | None:
        """The entry, or `None`."""
        answer = await self._call(messages.RANGE, messages.RangeRequest(key=self._keyspace.encode(key)))
        return entry(key, answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, and the revision this is true at."""
        start, end = self._keyspace.range(prefix)
        answer = await self._call(messages.RANGE, messages.RangeRequest(key=start, range_end=end))
        entries = [entry(self._keyspace.decode(kv.key), kv) for kv in answer.kvs]
        return Listing(tuple(sorted((e for e in entries if e.key.startswith(prefix)), key=lambda e: e.key)), answer.header.revision)

    async def transact(self, writes: Sequence[Write], conditions: Sequence[Unchanged] = ()) -> int | None:
        """Apply all writes or none. It is sent once, and said to be done only if etcd says so.

        After `StoreUnavailable` nobody knows: it may have been done, or may be done later, seconds even, for a member that stood still
        carries out what it had received. Such a latecomer does no more than this:

        - with conditions, it fails unless they all still hold;
        - without any, it fails if one of its keys was written after it was sent. So it never replaces a newer value, whoever wrote
          that; but it may bring back a key that was deleted meanwhile. Where that matters, write under a condition;
        - what it writes under a lease that has ended since is not written.
        """
        self._cluster.check_open()
        check_transaction(writes, conditions)
        if writes and not conditions:
            return await self._overwrite(writes)
        answer = await self._send(writes, [self._compare(condition) for condition in conditions])
        return int(answer.header.revision) if answer.succeeded else None

    async def _overwrite(self, writes: Sequence[Write]) -> int:
        """Apply writes that have no condition, under the one that their keys are as old as all that is known now."""
        newest = self._cluster.place.revision
        for _ in range(_ATTEMPTS):
            answer = await self._send(writes, [self._is_older(write.key, newest) for write in writes])
            newest = int(answer.header.revision)
            if answer.succeeded:
                return newest
        raise StoreUnavailable(f"others keep writing the same keys, such as {writes[0].key}; nothing was written")

    async def _send(self, writes: Sequence[Write], compare: Sequence[Any]) -> Any:
        request = messages.TxnRequest(compare=compare, success=[self._operation(write) for write in writes])
        return await self._cluster.call_once(messages.TXN, request)

    @asynccontextmanager
    async def watch(self, prefix: str, after: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """Follow `prefix`, also across lost connections. The iterator raises `Compacted` also after etcd was restored from a backup."""
        self._cluster.check_open()
        watch = Watch(self._cluster, self._keyspace, prefix, after, self._settings.timeout_s, self._logger)
        try:
            yield watch
        finally:
            watch.close()

    async def grant(self, ttl_s: float) -> str:
        """A new lease, of whole seconds: `ttl_s` or a little more. Its name is the one that `etcdctl lease list` shows."""
        answer = await self._call(messages.LEASE_GRANT, messages.LeaseGrantRequest(TTL=math.ceil(ttl_s)))
        return f"{answer.ID:x}"

    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises `LeaseLost` if it has ended."""
        answer = await self._call(messages.LEASE_KEEP_ALIVE, messages.LeaseKeepAliveRequest(ID=_lease_id(lease)))
        if answer.TTL <= 0:
            raise LeaseLost(f"the lease {lease} has ended; what was written under it is deleted")

    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys; no error if it has ended."""
        try:
            await self._call(messages.LEASE_REVOKE, messages.LeaseRevokeRequest(ID=_lease_id(lease)))
        except LeaseLost:
            return

    async def compact(self) -> None:
        """Have etcd forget what is older than `[store_etcd] history_s`, as far as this process knows how long ago that was.

        Cheap to call often; one process is enough. Whoever watches for less long a time than that loses nothing.
        """
        revision = self._cluster.trail.before(self._clock())
        if revision is None or revision <= self._compacted:
            return
        self._cluster.check_open()
        if (await self._cluster.barrier()).revision < revision:  # etcd was restored from a backup
            self._cluster.trail.forget()
            self._compacted = 0
            return
        with suppress(Compacted):  # somebody else has done it
            await self._call(messages.COMPACT, messages.CompactionRequest(revision=revision))
        self._compacted = revision

    async def _call(self, method: messages.Method, request: Any) -> Any:
        self._cluster.check_open()
        return await self._cluster.call(method, request)

    def _compare(self, condition: Unchanged) -> Any:
        key = self._keyspace.encode(condition.key)
        if condition.mod_revision == 0:
            return messages.Compare(target=messages.CREATE, key=key, create_revision=0)
        return messages.Compare(target=messages.MOD, key=key, mod_revision=condition.mod_revision)

    def _is_older(self, key: str, newest: int) -> Any:
        return messages.Compare(result=messages.LESS, target=messages.MOD, key=self._keyspace.encode(key), mod_revision=newest + 1)

    def _operation(self, write: Write) -> Any:
        key = self._keyspace.encode(write.key)
        if isinstance(write, Delete):
            return messages.RequestOp(request_delete_range=messages.DeleteRangeRequest(key=key))
        lease = 0 if write.lease is None else _lease_id(write.lease)
        return messages.RequestOp(request_put=messages.PutRequest(key=key, value=write.value, lease=lease))


def _lease_id(lease: str) -> int:
    try:
        return int(lease, 16)
    except ValueError:
        raise LeaseLost(f'"{lease}" is no lease of etcd') from None
