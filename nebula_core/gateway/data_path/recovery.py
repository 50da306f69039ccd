"""What follows an attempt that failed before the commit: another one, after a pause, or an answer that says why there is none.

Here is only what a request remembers of its attempts, and what the retry policy makes of it; `relay.py` acts on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from nebula_core.gateway.data_path import errors
from nebula_core.gateway.data_path.retries import retry_after_s
from nebula_core.interfaces import FailedAttempt

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answers import Answer
    from nebula_core.gateway.data_path.retries import Retries
    from nebula_core.gateway.data_path.waiting import WaitingRoom
    from nebula_core.interfaces import Cause
    from nebula_core.router.candidate import Candidate
    from nebula_core.router.table import Model

logger = logging.getLogger("nebula.gateway")

Break = Literal["refused", "reset", "timeout"]
"""How an attempt may break: no connection, connection lost, engine silent."""

MOST_LOST = 2
"""Engines that a request may take with it before it is given up."""


class Recovery:
    """One request's failed attempts. `after_` and `without_` methods return the seconds until the next one, or `None`: there is none."""

    __slots__ = ("_failure", "_lost", "_model", "_request_id", "_retries", "causes", "repeated", "tried")

    def __init__(self, model: Model, request_id: str, retries: Retries) -> None:
        self._model, self._request_id, self._retries = model, request_id, retries
        self._failure: Cause = "no_candidate"
        """What the client is told of, if it comes to that."""
        self._lost: tuple[Candidate, ...] = ()
        """Those whose connection ended while they had this request: it may be what ended them."""
        self.tried: tuple[Candidate, ...] = ()
        self.causes: tuple[Cause, ...] = ()
        """Why it was tried again, each time."""
        self.repeated = False
        """It is sent once more to the same engine, which may have read it the first time."""

    def after_break(self, candidate: Candidate, failure: Break) -> float | None:
        """The attempt on `candidate` has broken."""
        self._failure, self.repeated = failure, False
        self.tried = (*self.tried, candidate)
        if failure == "reset":
            self._lost = (*self._lost, candidate)
        if len(self._lost) == MOST_LOST:  # whatever the policy says
            logger.error("request %s is suspect: %d engines were lost with it", self._request_id, MOST_LOST)
            return None
        pause = self._pause(failure)
        if pause is None:
            return None
        if self._model.candidates and all(other in self.tried for other in self._model.candidates):
            return self.without_candidate()
        return self._again(pause, failure, failure)

    def after_status(self, candidate: Candidate, status: int, lines: Iterable[bytes], now: float) -> float | None:
        """`candidate` has answered with an error status. `None`: the client gets its answer, for no other replica has a better one."""
        tried = (*self.tried, candidate)
        if all(other in tried or other.down_until > now for other in self._model.candidates):
            return None
        pause = self._pause("status", status, retry_after_s(lines))
        if pause is None:
            return None
        self._failure, self.tried = "status", tried
        return self._again(pause, "status", str(status))

    def without_candidate(self) -> float | None:
        """No replica is left to try: one may come, or one that refused may come back."""
        pause = self._pause("no_candidate")
        if pause is None:
            return None
        self.tried = self._lost
        return self._again(pause, "no_candidate", "no_candidate")

    def refusal(self, first_byte_s: float, room: WaitingRoom) -> Answer:
        """What the client is told when no attempt follows. `first_byte_s`: what holds for models without a timeout of their own."""
        model_uid = self._model.model_uid
        match self._failure:
            case "refused":
                return errors.unreachable(model_uid)
            case "reset":
                return errors.engine_lost(model_uid)
            case "timeout":
                return errors.engine_silent(model_uid, self._model.first_byte_timeout_s or first_byte_s)
            case _:
                return errors.no_replica(model_uid, self._model.note) if self._model.candidates else room.without_waiting(self._model)

    def _pause(self, cause: Cause, status: int = 0, retry_after: float | None = None) -> float | None:
        """What the policy says."""
        model_uid = self._model.model_uid
        return self._retries.pause(
            FailedAttempt(
                model_uid=model_uid,
                cause=cause,
                status=status,
                retry_after_s=retry_after,
                before=self.causes,
                answered=self._retries.answered(model_uid),
            )
        )

    def _again(self, pause: float, cause: Cause, reason: str) -> float:
        self.causes = (*self.causes, cause)
        self._retries.made(self._model.model_uid, reason)
        logger.info("request %s: %s, next attempt in %.0f ms", self._request_id, reason, pause * 1000)
        return pause
