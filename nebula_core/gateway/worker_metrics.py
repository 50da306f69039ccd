"""The sum of what all workers of this gateway count, also of those that are gone."""

from __future__ import annotations

from nebula_core.gateway.worker_link import Process
from nebula_core.snapshots import Snapshot, merge


class WorkerMetrics:
    """The last snapshot of each worker, merged. A worker's counts outlive it, its gauges do not."""

    def __init__(self) -> None:
        self._snapshots: dict[Process, Snapshot] = {}
        self._past: Snapshot = ()
        """The sum of what workers counted that were replaced."""

    def report(self, process: Process, snapshot: Snapshot) -> None:
        """Take over what a worker counts now."""
        self._snapshots[process] = snapshot

    def arrived(self, process: Process) -> None:
        """A worker has connected. If it took another's place, what that one counted is all it will ever have counted."""
        for known in [known for known in self._snapshots if known[:2] == process[:2] and known != process]:
            self._past = merge([self._past, lasting(self._snapshots.pop(known))])

    def left(self, process: Process) -> None:
        """The worker is gone, or its connection, so that it may come back and count on."""
        if process in self._snapshots:
            self._snapshots[process] = lasting(self._snapshots[process])

    def of(self, generation: str) -> list[Snapshot]:
        """What the workers of one control process count, those included that were replaced: together it only grows."""
        return [self._past, *(snapshot for process, snapshot in self._snapshots.items() if process[0] == generation)]

    def snapshot(self) -> Snapshot:
        """All of it as one."""
        return merge([self._past, *self._snapshots.values()])


def lasting(snapshot: Snapshot) -> Snapshot:
    """What stays of a process that is gone: its counts, but not its gauges."""
    return tuple(family for family in snapshot if family.kind != "gauge")
