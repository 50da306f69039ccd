"""What is known of etcd's past: whether it is still the same, and which revision was the newest at what time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

_SAMPLES = 16
"""Samples per period kept: how finely the past is known."""


@dataclass(frozen=True)
class Place:
    """A point in the history of a cluster, as the header of an answer tells it. The cluster 0 is one that is not known yet."""

    cluster_id: int
    raft_term: int
    revision: int

    @classmethod
    def of(cls, header: Any) -> Place:
        """The place that a `ResponseHeader` names."""
        return cls(header.cluster_id, header.raft_term, header.revision)

    def follows(self, earlier: Place) -> bool:
        """Whether this can be a later point of the same history; if not, etcd was restored from a backup or is another one."""
        return earlier.cluster_id in (0, self.cluster_id) and self.raft_term >= earlier.raft_term and self.revision >= earlier.revision


class Trail:
    """Remembers revisions of the last `keep_s` seconds, in a bounded number of samples. Times are monotonic seconds."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._samples: deque[tuple[float, Place]] = deque(maxlen=2 * _SAMPLES)

    def note(self, now: float, place: Place) -> None:
        """The newest revision is this now. What a member says that lags behind is left out; a new history begins anew."""
        if not self._samples:
            self._samples.append((now, place))
            return
        last_at, last = self._samples[-1]
        if place.cluster_id != last.cluster_id:
            self._samples.clear()
            self._samples.append((now, place))
        elif now - last_at >= self._keep_s / _SAMPLES and place.follows(last):
            self._samples.append((now, place))

    def forget(self) -> None:
        """Begin anew."""
        self._samples.clear()

    def before(self, now: float) -> int | None:
        """A revision that was the newest `keep_s` seconds ago or a little earlier; `None` if nobody looked then."""
        old = [place.revision for at, place in self._samples if at <= now - self._keep_s]
        return old[-1] if old else None
