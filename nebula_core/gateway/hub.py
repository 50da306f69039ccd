"""The control side of the link: one connection per worker, the table and stats going down, charges and metrics coming up.

What the workers of other gateways do comes in and goes out here as well; `peers.py` carries it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from nebula_core.gateway import feed, link
from nebula_core.gateway.awaited import Awaited
from nebula_core.gateway.ledger import Ledger, Replica
from nebula_core.gateway.peer_link import Report
from nebula_core.gateway.sockets import short_name
from nebula_core.gateway.traffic import Counts, counts
from nebula_core.gateway.unfinished import Unfinished
from nebula_core.gateway.worker_link import WorkerLink
from nebula_core.gateway.worker_metrics import WorkerMetrics
from nebula_core.interfaces import Explanation
from nebula_core.router.events import Lost, RouteEvent
from nebula_core.router.routes import ModelRoute
from nebula_core.snapshots import Snapshot
from nebula_core.types import EndpointStats

TELL_CHARGES_S = 0.02
"""How long charges are gathered before the other workers and gateways hear of them."""

_T = TypeVar("_T")


class Explained(NamedTuple):
    """What this gateway's workers know of a request."""

    decisions: tuple[Explanation, ...]
    """In order of time."""
    silent: int
    """Workers that did not answer."""


class WorkerHub:
    """What all workers of this gateway are told, and what they tell.

    `generation` names this control process: a worker that introduces itself with another one was left behind by a control process
    that died. It has served on alone, and is now asked to finish what it has and to go. `workers` is how many there are to be.
    """

    def __init__(
        self, path: Path, generation: str, settings_json: bytes, drain_s: float, logger: logging.Logger, *, workers: int = 1
    ) -> None:
        self.changed = asyncio.Event()
        """Set when a worker applied a table, or reported other charges or other requests that wait."""
        self._path, self._generation, self._settings, self._drain_s, self._logger = path, generation, settings_json, drain_s, logger
        self._models: dict[str, ModelRoute] = {}
        self._stats: dict[Replica, EndpointStats] = {}
        self._revision = 0
        self._fed = False
        self._retiring = False
        self._workers: set[WorkerLink] = set()
        self._ledger = Ledger()
        self._awaited = Awaited()
        self._unfinished = Unfinished()
        self._applied: dict[int, int] = {}
        """Slot → revision that its worker routes by, also while that is not connected."""
        self._metrics = WorkerMetrics()
        self._several = workers > 1
        self._sharing = self._several
        """Whether workers are to tell what strategies may learn from their requests."""
        self._report: Callable[[Report], None] | None = None
        """Tells the other gateways; `None` while none is connected."""
        self._failures: list[Lost] = []
        self._events: list[RouteEvent] = []
        """What the other gateways are to hear next, beside charges."""
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
        new = feed.new_replicas(self._models, table.models)
        known = self._known_stats(new)
        self._models, self._revision, self._fed = dict(models), revision, True
        for worker in self._own():
            worker.send(table)
            if known:
                worker.send(link.Stats(known))
        self._ledger.tell_again(new)  # another gateway may have known of them before us, and told what it has there
        self._tell_soon()

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

    def waiting(self) -> Counter[str]:
        """Requests that wait for a replica, per model, over all workers; those refused just now are among them."""
        return self._awaited.total(time.monotonic())

    def counts(self) -> dict[str, Counts]:
        """What our own workers have counted of each model since this began."""
        return counts(self._metrics.of(self._generation))

    def snapshot(self) -> Snapshot:
        """All workers' metrics as one; what workers counted that are gone stays in."""
        return self._metrics.snapshot()

    async def explain(self, request_id: str) -> Explained:
        """Ask all workers why they sent a request where they sent it; takes as long as the slowest, up to a deadline."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(worker.explain(request_id)) for worker in self._own()]
        answers = [task.result() for task in asked]
        decisions = [decision for answer in answers for decision in answer or ()]
        return Explained(tuple(sorted(decisions, key=lambda decision: decision.at)), answers.count(None))

    def routable(self) -> set[Replica]:
        """The replicas that are in the table."""
        return {(uid, route.replica_id) for uid, model in self._models.items() for route in model.routes}

    # --- the other gateways ---------------------------------------------------------------------------------------------------

    def report_to(self, report: Callable[[Report], None] | None) -> None:
        """Tell the other gateways by `report` from now on what our workers do; `None`: there is none to tell."""
        self._report = report
        self._failures.clear()
        self._events.clear()
        self._tell_soon()
        sharing = self._several or report is not None
        if sharing != self._sharing:
            self._sharing = sharing
            for worker in self._own():
                self._unfinished.end(worker, time.monotonic())  # it tells no more of what it has told of, or will soon begin anew
            self._tell_others(None, link.ShareEvents(sharing))

    def first_report(self) -> Report:
        """What another gateway must be told first; what `report_to` hands out later is what has changed since."""
        return Report(time.monotonic(), self._ledger.told_of_ours())

    def take_from_peer(self, peer: object, report: Report) -> None:
        """Pass on to our workers what another gateway's do, its events by our clock; nothing of it goes to other gateways."""
        if report.charges:
            self._ledger.report_peer(peer, report.charges)
            self._tell_charges()  # it has gathered them long enough
        if report.failures:
            self._tell_others(None, link.Suspects(report.failures))
        if report.events:
            self._unfinished.note(peer, report.events)
            self._tell_others(None, link.Events(report.events))

    def forget_peer(self, peer: object) -> None:
        """The other gateway is gone, and its requests with it."""
        self._ledger.forget(peer)
        self._tell_charges()
        if ended := self._unfinished.end(peer, time.monotonic()):
            self._tell_others(None, link.Events(ended))

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
        self._metrics.arrived(worker.process)
        left_behind = hello.generation != self._generation
        if left_behind:
            self._logger.info("asking gateway worker %d, left behind by an earlier process, to finish and go", hello.pid)
        if left_behind or self._retiring:
            worker.send(link.Retire(self._drain_s, hand_over=left_behind))
            return worker
        worker.send(link.Welcome(self._settings))
        if self._sharing:
            worker.send(link.ShareEvents(True))
        if self._fed:
            worker.send(link.Table(revision=self._revision, whole=True, models=tuple(self._models.values())))
            worker.send(link.Stats(self._known_stats(self._stats)))
            self._tell_soon()  # it knows nothing yet of what the others have
        return worker

    def _take(self, worker: WorkerLink, message: link.Up) -> None:
        match message:
            case link.Applied(revision):
                worker.applied = True
                self._applied[worker.hello.slot] = revision
                self.changed.set()
            case link.Charges(in_flight):
                self._ledger.report(worker, in_flight)
                self.changed.set()
                if len(self._workers) > 1 or self._report is not None:
                    self._tell_soon()
            case link.Waiting(models):
                self._awaited.report(worker, models, time.monotonic())
                self.changed.set()
            case link.Failures(replicas):
                self._tell_others(worker, link.Suspects(replicas))
                self._gather(self._failures, replicas)
            case link.Events(events):
                self._unfinished.note(worker, events)
                self._pass_on(worker, events)
            case link.EventsLost():
                self._pass_on(worker, self._unfinished.end(worker, time.monotonic()))
            case link.MetricsReport(families):
                self._metrics.report(worker.process, families)
            case link.Explanations():
                worker.answered(message)

    def _tell_others(self, worker: WorkerLink | None, message: link.Down) -> None:
        for other in self._own():
            if other is not worker:
                other.send(message)

    def _pass_on(self, worker: WorkerLink, events: tuple[RouteEvent, ...]) -> None:
        if events:
            self._tell_others(worker, link.Events(events))
            self._gather(self._events, events)

    def _gather(self, waiting: list[_T], news: Iterable[_T]) -> None:
        if self._report is not None:
            waiting.extend(news)
            self._tell_soon()

    def _part_from(self, worker: WorkerLink) -> None:
        self._workers.discard(worker)
        worker.left()
        self._ledger.forget(worker)
        self._pass_on(worker, self._unfinished.end(worker, time.monotonic()))
        self._awaited.forget(worker)
        self._metrics.left(worker.process)
        self.changed.set()
        self._tell_soon()

    def _known_stats(self, replicas: Iterable[Replica]) -> tuple[tuple[str, str, EndpointStats], ...]:
        return tuple((*replica, self._stats[replica]) for replica in replicas if replica in self._stats)

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_CHARGES_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._tell_charges()
        if self._report is not None:
            report = Report(time.monotonic(), self._ledger.ours(), tuple(self._failures), tuple(self._events))
            self._failures.clear()
            self._events.clear()
            if report.charges or report.failures or report.events:
                self._report(report)

    def _tell_charges(self) -> None:
        for worker in self._own():
            if counts := self._ledger.elsewhere(worker):
                worker.send(link.ChargesElsewhere(counts))

    def _own(self) -> list[WorkerLink]:
        return [worker for worker in self._workers if worker.hello.generation == self._generation]
