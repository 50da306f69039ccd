"""`Charge`: what one attempt of a request weighs on a replica, from being picked until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nebula_core.router.blocks import PrefixBlocks
    from nebula_core.router.candidate import Candidate
    from nebula_core.router.router import Router

Failure = Literal["refused", "reset", "timeout", "aborted"]
"""Why an attempt ended without a whole answer: no connection, connection lost, engine silent, client gone."""


class Charge:
    """Owns *charge → first token → finish* of one attempt, so that no path through the relay can leak a charge or count it twice.

    It is charged when made. The first call of `finish` or `fail` ends it; every later call of any method does nothing.
    """

    __slots__ = ("_answering", "_router", "candidate", "ended", "request_id")

    def __init__(self, router: Router, candidate: Candidate, request_id: str, blocks: PrefixBlocks | None = None) -> None:
        self._router = router
        self.candidate = candidate
        self.request_id = request_id
        self._answering = False
        self.ended = False
        candidate.charge()
        router.note("charged", candidate, request_id, blocks)

    def first_token(self) -> None:
        """The first byte of the answer's body has come."""
        if not self._answering and not self.ended:
            self._answering = True
            self._router.note("first_token", self.candidate, self.request_id)

    def finish(self, *, whole: bool = False) -> None:
        """The engine answered, whatever its status; `whole`: its first byte came with its last, and is not told of apart, to save 1 us."""
        if not self.ended:
            self.ended = True
            self.candidate.discharge()
            if self.candidate.down_until:
                self.candidate.trust()
            self._router.note("finished", self.candidate, self.request_id, whole=whole and not self._answering)

    def fail(self, kind: Failure) -> None:
        """The attempt ended without a whole answer."""
        if not self.ended:
            self.ended = True
            self.candidate.discharge()
            self._router.note_failure(self, kind)
