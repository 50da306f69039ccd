"""What a worker tells the control process of itself: charges, replicas that failed, and its metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from nebula_core.gateway import link
from nebula_core.gateway.data_path.waiting import WaitingRoom
from nebula_core.metrics import Metrics
from nebula_core.router.candidate import Candidate
from nebula_core.router.events import RouteEvent
from nebula_core.router.router import Router

CHARGES_S = 0.02
"""Rhythm of telling our charges; with the hub's own pause, other workers know them within 50 ms."""
MOST_UNSENT = 1024 * 1024
"""Bytes that a control process may leave unread before it is told nothing more."""
METRICS_EVERY = 50
"""Metrics go up with every so many reports of charges: about once a second."""


class Reporter:
    """Gathers what changed and sends it, a few times a second, only when there is something to tell."""

    def __init__(self, router: Router, metrics: Metrics, room: WaitingRoom | None = None) -> None:
        self._router, self._metrics, self._room = router, metrics, room
        self._charged: set[Candidate] = set()
        self._told: tuple[object, ...] = ()
        self._events_lost = False

    async def run(self, writer: asyncio.StreamWriter) -> None:
        """Report over this connection until it ends. A new connection is told everything."""
        self._router.touched.update(self._charged)
        self._told, self._events_lost = (), False
        if self._room is not None:
            self._room.tell_again()
        turn = 0
        while not writer.is_closing():
            if writer.transport.get_write_buffer_size() < MOST_UNSENT:
                self.tell_charges(writer)
                self._tell_waiting(writer)
                self._tell_failures(writer)
                self._tell_events(writer)
                if turn % METRICS_EVERY == 0:
                    self._tell_metrics(writer)
            else:
                self._drop_events()
            turn += 1
            await asyncio.sleep(CHARGES_S)

    def tell_charges(self, writer: asyncio.StreamWriter) -> None:
        """Send the counts of all replicas whose count changed since the last time."""
        touched, self._router.touched = self._router.touched, set()
        if touched:
            self._charged = {candidate for candidate in self._charged | touched if candidate.charged}
            counts = Counter({_replica(candidate): 0 for candidate in touched})
            for candidate in self._charged:
                if _replica(candidate) in counts:
                    counts[_replica(candidate)] += candidate.charged
            link.write(writer, link.Charges(tuple((uid, replica, count) for (uid, replica), count in counts.items())))

    def _tell_waiting(self, writer: asyncio.StreamWriter) -> None:
        if self._room is not None and (news := self._room.take_news()):
            link.write(writer, link.Waiting(tuple((uid, *held) for uid, held in news.items())))

    def _tell_failures(self, writer: asyncio.StreamWriter) -> None:
        failures, self._router.failures = self._router.failures, []
        if failures:
            link.write(writer, link.Failures(tuple(failures)))

    def _tell_events(self, writer: asyncio.StreamWriter) -> None:
        if self._events_lost:
            self._events_lost = False
            link.write(writer, link.EventsLost())
        if self._router.shared:
            events, self._router.shared = self._router.shared, []
            if lasting := worth_telling(events):
                link.write(writer, link.Events(lasting))

    def _drop_events(self) -> None:
        """What nobody reads is not kept, for the memory is needed. Strategies can do without, if they are told so."""
        self._router.failures.clear()
        if self._router.shared:
            self._router.shared.clear()
            self._events_lost = True

    def _tell_metrics(self, writer: asyncio.StreamWriter) -> None:
        snapshot = self._metrics.snapshot()
        if snapshot != self._told:
            self._told = snapshot
            link.write(writer, link.MetricsReport(snapshot))


def worth_telling(events: Sequence[RouteEvent]) -> tuple[RouteEvent, ...]:
    """The events without those of requests that left nothing behind: over before anybody hears of them, with no prefix to be held.

    Short questions that are answered at once, as embeddings often are, come by the thousand, and to learn of one costs a worker 7 us.
    """
    brief: dict[tuple[str, str], bool] = {}
    """Whether a request that began here on a replica has ended."""
    for event in events:
        if event.kind == "charged" and not (event.prefix_blocks is not None and event.prefix_blocks.hashes):
            brief[event.request_id, event.replica_id] = False
        elif event.kind in ("finished", "failed") and (key := (event.request_id, event.replica_id)) in brief:
            brief[key] = True
    return tuple(event for event in events if not brief.get((event.request_id, event.replica_id)))


def _replica(candidate: Candidate) -> tuple[str, str]:
    return candidate.route.model_uid, candidate.route.replica_id
