"""Requests that a worker or another gateway told the beginning of, and not yet the end.

If it dies, somebody has to tell the end in its place: strategies would expect these requests to take their turn for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from nebula_core.router.events import RouteEvent


class Unfinished:
    """Requests under way per source, which any hashable key may name."""

    def __init__(self) -> None:
        self._of: dict[object, dict[tuple[str, str, str], int]] = {}
        """Source → (request_id, model_uid, replica_id) → incarnation. The events themselves hold whole prompts' hashes."""

    def note(self, source: object, events: Iterable[RouteEvent]) -> None:
        """Take over what a source tells."""
        requests = self._of.setdefault(source, {})
        for event in events:
            kind = event.kind
            if kind == "charged":
                requests[event.request_id, event.model_uid, event.replica_id] = event.incarnation
            elif kind != "first_token":
                requests.pop((event.request_id, event.model_uid, event.replica_id), None)

    def end(self, source: object, now: float) -> tuple[RouteEvent, ...]:
        """The source is gone, or no longer knows what it has told: the end of all its requests. `now` is monotonic seconds."""
        return tuple(
            RouteEvent(kind="failed", model_uid=model_uid, replica_id=replica_id, incarnation=incarnation, request_id=request_id, at=now)
            for (request_id, model_uid, replica_id), incarnation in self._of.pop(source, {}).items()
        )
