"""`Strategy` picks a replica for a request and explains it; `Retry` decides whether a failed attempt is made again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from nebula_core.router.candidate import Candidate
    from nebula_core.router.events import Pick, RouteEvent, RouteRequest


class Considered(msgspec.Struct, frozen=True):
    """A candidate as it looked to a strategy when that decided."""

    replica_id: str
    figures: dict[str, float] = {}
    """What it was weighed by, the deciding ones first. A name ends with its unit (`wait_s`, `cached_bytes`), or it is a plain number."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of a strategy, for an operator who asks why."""

    request_id: str
    model_uid: str
    at: float
    """Monotonic seconds of the gateway that decided."""
    picked: str
    """The `replica_id` that was chosen."""
    reason: str
    """That of the `Pick`."""
    why: str = ""
    """The same in words."""
    figures: dict[str, float] = {}
    """What is known of the request itself, named as those of candidates."""
    candidates: tuple[Considered, ...] = ()
    """The best first."""
    strategy: str = ""
    """Name of the strategy; the router fills it in."""


class Strategy(ABC):
    """Picks one replica for a request. Called on the request path: no I/O, no waiting, no work that grows with past traffic."""

    signals: tuple[str, ...] = ()
    """Fields of `EndpointStats` that it cannot do without: unless one of them is known, `select` returns `None`. Empty: it needs none."""
    signals_of: Literal["every", "any"] = "every"
    """Of which candidates: of every one the same field, or of any of them."""
    explains: int = 0
    """How many of its last decisions `explain` knows, in each gateway worker; 0: it explains none."""

    @abstractmethod
    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        """Choose among `candidates` (never empty, all of the request's model), or `None` to leave it to `[router] fallback`."""

    def observe(self, event: RouteEvent) -> None:
        """Learn what became of requests, this gateway's and the others': charged, first token, finished, failed, replica gone."""
        return

    def explain(self, request_id: str) -> Sequence[Explanation]:
        """Its decisions on a request, as far as it still knows them, the first one first: a retry is a decision of its own.

        Called when an operator asks, in the loop that carries requests: bounded, and no longer than some milliseconds.
        """
        return ()


Cause = Literal["refused", "reset", "timeout", "status", "no_candidate"]
"""Why an attempt failed: no connection, connection lost, engine silent, an answer with an error status, no replica to send it to."""


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a request that failed before any byte of an answer's body was sent to the client."""

    model_uid: str
    cause: Cause
    status: int = 0
    """With the cause `status`: the status that the engine answered with, 400 or above."""
    retry_after_s: float | None = None
    """With the cause `status`: when to come again by the engine's own word, in seconds from now."""
    before: tuple[Cause, ...] = ()
    """The causes for which this request has been tried again already, in order."""
    answered: int = 0
    """Requests for this model that this worker has answered since its start, whatever with."""


class Retry(ABC):
    """Decides whether a request whose attempt failed is tried again. Called only then, in a gateway worker: no I/O, no waiting.

    Whatever it says, an attempt goes to a replica that the request was not sent to yet (after `no_candidate`, also to one that
    refused the connection), and a request that two engines were lost with is failed.
    """

    @abstractmethod
    def pause(self, failed: FailedAttempt, now: float) -> float | None:
        """Seconds until the next attempt, 0 for one at once; `None`: there is none. `now` is in monotonic seconds."""
