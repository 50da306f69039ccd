"""The control side of the link: one connection per worker, the table and stats going down, charges and metrics coming up."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from nebula_core.gateway import feed, link
from nebula_core.gateway.ledger import Ledger, Replica
from nebula_core.gateway.sockets import short_name
from nebula_core.metrics import Snapshot, merge
from nebula_core.router.candidate import ModelRoute
from nebula_core.types import EndpointStats

TELL_CHARGES_S = 0.02
"""How long charges are gathered before the other workers hear of them."""
MOST_UNSENT = 64 * 1024 * 1024
"""Bytes that a worker may leave unread before it is cut off; it connects again and gets the whole table."""


Process = tuple[str, int, int]
"""A worker's process: generation, slot, pid."""


class WorkerLink:
    """One connected worker."""

    def __init__(self, hello: link.Hello, writer: asyncio.StreamWriter) -> None:
        self.hello = hello
        self.applied = False
        self._writer = writer

    @property
    def process(self) -> Process:
        """Which process this is."""
        return self.hello.generation, self.hello.slot, self.hello.pid

    def send(self, message: link.Down) -> None:
        """Queue a message; a worker that does not read is cut off instead of filling our memory."""
        if self._writer.transport.get_write_buffer_size() > MOST_UNSENT:
            self._writer.transport.abort()
        elif not self._writer.is_closing():
            link.write(self._writer, message)

    def close(self) -> None:
        """End the connection; what is queued is still sent."""
        self._writer.close()


class WorkerHub:
    """What all workers of this gateway are told, and what they tell.

    `generation` names this control process: a worker that introduces itself with another one was left behind by a control process
    that died. It has served on alone, and is now asked to finish what it has and to go.
    """

    def __init__(self, path: Path, generation: str, settings_json: bytes, drain_s: float, logger: logging.Logger) -> None:
        self.changed = asyncio.Event()
        """Set when a worker applied a table or reported other charges."""
        self._path, self._generation, self._settings, self._drain_s, self._logger = path, generation, settings_json, drain_s, logger
        self._models: dict[str, ModelRoute] = {}
        self._stats: dict[Replica, EndpointStats] = {}
        self._revision = 0
        self._fed = False
        self._retiring = False
        self._workers: set[WorkerLink] = set()
        self._ledger = Ledger()
        self._applied: dict[int, int] = {}
        """Slot → revision that its worker routes by, also while that is not connected."""
        self._snapshots: dict[Process, Snapshot] = {}
        self._past: Snapshot = ()
        """The sum of what workers counted that were replaced."""
        self._telling: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> WorkerHub:
        self._path.unlink(missing_ok=True)
        with short_name(self._path) as name:
            self._server = await asyncio.start_unix_server(self._serve, path=name)
        self._path.chmod(0o600)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._telling is not None:
            self._telling.cancel()
        for worker in self._workers:
            worker.close()
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    # --- down -----------------------------------------------------------------------------------------------------------------

    def publish_table(self, models: Mapping[str, ModelRoute], revision: int) -> None:
        """Hand the table as of `revision` to all workers; only what changed is sent."""
        table = feed.changes(self._models, models, revision)
        known = self._known_stats(feed.new_replicas(self._models, table.models))
        self._models, self._revision, self._fed = dict(models), revision, True
        for worker in self._own():
            worker.send(table)
            if known:
                worker.send(link.Stats(known))

    def publish_stats(self, samples: Mapping[Replica, EndpointStats], gone: Iterable[Replica] = ()) -> None:
        """Hand new samples of engines' signals to all workers."""
        self._stats.update(samples)
        for replica in gone:
            self._stats.pop(replica, None)
        if samples:
            message = link.Stats(tuple((uid, replica, stats) for (uid, replica), stats in samples.items()))
            for worker in self._own():
                worker.send(message)

    def retire(self) -> None:
        """Ask all workers, also those that are yet to connect, to accept nothing more, to finish and to go."""
        self._retiring = True
        for worker in self._workers:
            worker.send(link.Retire(self._drain_s))

    # --- up -------------------------------------------------------------------------------------------------------------------

    @property
    def applied_revision(self) -> int:
        """The revision that every worker routes by; one that never had a table routes nothing."""
        return min(self._applied.values(), default=self._revision)

    @property
    def connected(self) -> int:
        """Workers of this control process that are connected and have the table."""
        return sum(worker.applied for worker in self._own())

    def in_flight(self) -> Counter[Replica]:
        """Requests in flight per replica, over all workers."""
        return self._ledger.total()

    def snapshot(self) -> Snapshot:
        """All workers' metrics as one; what workers counted that are gone stays in."""
        return merge([self._past, *self._snapshots.values()])

    def routable(self) -> set[Replica]:
        """The replicas that are in the table."""
        return {(uid, route.replica_id) for uid, model in self._models.items() for route in model.routes}

    # --- one worker -----------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker: WorkerLink | None = None
        try:
            while True:
                message = await link.read_up(reader)
                if isinstance(message, link.Hello):
                    worker = self._greet(message, writer)
                elif worker is not None:
                    self._take(worker, message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the worker is gone; whoever started it knows what to do
        except msgspec.MsgspecError as error:
            self._logger.error("a gateway worker sent what is not understood, its connection is closed: %s", error)
        finally:
            if worker is not None:
                self._part_from(worker)
            writer.close()

    def _greet(self, hello: link.Hello, writer: asyncio.StreamWriter) -> WorkerLink:
        worker = WorkerLink(hello, writer)
        self._workers.add(worker)
        self._fold_predecessor(worker.process)
        left_behind = hello.generation != self._generation
        if left_behind:
            self._logger.info("asking gateway worker %d, left behind by an earlier process, to finish and go", hello.pid)
        if left_behind or self._retiring:
            worker.send(link.Retire(self._drain_s))
            return worker
        worker.send(link.Welcome(self._settings))
        if self._fed:
            worker.send(link.Table(revision=self._revision, whole=True, models=tuple(self._models.values())))
            worker.send(link.Stats(self._known_stats(self._stats)))
        return worker

    def _take(self, worker: WorkerLink, message: link.Up) -> None:
        match message:
            case link.Applied(revision):
                worker.applied = True
                self._applied[worker.hello.slot] = revision
                self.changed.set()
            case link.Charges(in_flight):
                self._ledger.report(worker, in_flight)
                self._charges_changed(alone=len(self._workers) == 1)
            case link.Failures(replicas):
                self._tell_others(worker, link.Suspects(replicas))
            case link.Events():
                self._tell_others(worker, message)
            case link.MetricsReport(families):
                self._snapshots[worker.process] = families

    def _tell_others(self, worker: WorkerLink, message: link.Down) -> None:
        for other in self._own():
            if other is not worker:
                other.send(message)

    def _part_from(self, worker: WorkerLink) -> None:
        self._workers.discard(worker)
        self._ledger.forget(worker)
        if worker.process in self._snapshots:
            self._snapshots[worker.process] = lasting(self._snapshots[worker.process])
        self._charges_changed(alone=False)  # the last one left must hear of it too

    def _fold_predecessor(self, process: Process) -> None:
        """A worker has taken another's place: what that one counted is all it will ever have counted."""
        for known in [known for known in self._snapshots if known[:2] == process[:2] and known != process]:
            self._past = merge([self._past, lasting(self._snapshots.pop(known))])

    def _known_stats(self, replicas: Iterable[Replica]) -> tuple[tuple[str, str, EndpointStats], ...]:
        return tuple((*replica, self._stats[replica]) for replica in replicas if replica in self._stats)

    def _charges_changed(self, *, alone: bool) -> None:
        self.changed.set()
        if self._telling is None and not alone:
            self._telling = asyncio.get_running_loop().call_later(TELL_CHARGES_S, self._tell_charges)

    def _tell_charges(self) -> None:
        self._telling = None
        for worker in self._own():
            if counts := self._ledger.elsewhere(worker):
                worker.send(link.ChargesElsewhere(counts))

    def _own(self) -> list[WorkerLink]:
        return [worker for worker in self._workers if worker.hello.generation == self._generation]


def lasting(snapshot: Snapshot) -> Snapshot:
    """What stays of a process that is gone: its counts, but not its gauges."""
    return tuple(family for family in snapshot if family.kind != "gauge")
