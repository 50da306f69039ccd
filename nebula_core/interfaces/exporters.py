"""`Exporter`: metrics as a page that others read."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nebula_core.snapshots import Snapshot


class Exporter(ABC):
    """Turns the metrics of a control process and its workers into a page that others read."""

    path: str = "/metrics"
    """Where the admin port serves the page, to anybody: metrics hold no secrets."""

    @abstractmethod
    def page(self, snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
        """`(content type, body)` of all series in `snapshot`; `accept` is the reader's `Accept` header, "" if it sent none.

        Called in a thread, never twice at once.
        """
