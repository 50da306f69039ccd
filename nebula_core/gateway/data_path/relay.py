"""One request's way to an engine, and what happens when it fails.

    pick and charge → connect or reuse → send → head held back → first body byte: commit → pieces pass → end

Until the commit nothing has been sent to the client, so that another attempt can follow a failed one, at once or after a pause, as
the retry policy says. From then on a failure can only be told: by an error event in a stream, else by a connection that ends too
early. No path leaves without ending the charge, and while a request waits for its next attempt it is charged to no replica.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Literal

from nebula_core.gateway.data_path import errors
from nebula_core.gateway.data_path.body import with_model
from nebula_core.gateway.data_path.delivery import Delivery
from nebula_core.gateway.data_path.measures import CLIENT_GONE, Outcome
from nebula_core.gateway.data_path.retries import retry_after_s
from nebula_core.interfaces import FailedAttempt
from nebula_core.router.candidate import Candidate, RouteRequest

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answers import Answer
    from nebula_core.gateway.data_path.client import ClientConnection
    from nebula_core.gateway.data_path.http import Request
    from nebula_core.gateway.data_path.pool import Endpoint
    from nebula_core.gateway.data_path.services import Services
    from nebula_core.gateway.data_path.upstream import EngineConnection
    from nebula_core.interfaces import Cause
    from nebula_core.router.guard import Charge
    from nebula_core.router.table import Model

logger = logging.getLogger("nebula.gateway")

Break = Literal["refused", "reset", "timeout"]
"""How an attempt may break: no connection, connection lost, engine silent."""

ERROR = 400
"""Statuses from here on are no answers of a model."""
MOST_LOST = 2
"""Engines that a request may take with it before it is given up."""


class Exchange:
    """One request to a known model, from its last byte to its answer's."""

    __slots__ = (
        "_charge",
        "_client",
        "_connection",
        "_delivery",
        "_ended",
        "_first_at",
        "_lost",
        "_model",
        "_name",
        "_picked_at",
        "_repeated",
        "_request",
        "_retried",
        "_routed",
        "_services",
        "_started",
        "_tried",
        "_waiting",
    )

    def __init__(self, services: Services, client: ClientConnection, request: Request, model: Model, name: str) -> None:
        self._services, self._client, self._request, self._model = services, client, request, model
        self._name = name
        """What the client calls the model."""
        self._routed = RouteRequest(request.request_id.decode(), model.model_uid, request.path.decode(), request.body)
        self._tried: tuple[Candidate, ...] = ()
        self._lost: tuple[Candidate, ...] = ()
        """Those whose connection ended while they had this request: it may be what ended them."""
        self._retried: tuple[Cause, ...] = ()
        """Why it was tried again, each time."""
        self._repeated = False
        """It is sent once more to the same engine, which may have read it the first time."""
        self._charge: Charge | None = None
        self._waiting: asyncio.Task[None] | asyncio.TimerHandle | None = None
        """A connection being opened, or the pause before the next attempt."""
        self._connection: EngineConnection | None = None
        self._delivery: Delivery | None = None
        self._started = self._picked_at = services.clock()
        self._first_at: float | None = None
        self._ended = False
        services.measures.in_flight.inc()

    # --- towards the engine

    def start(self) -> None:
        """Send the request to a replica, or tell the client why not."""
        if not self._attempt():
            self._await_candidate("no_candidate")

    def _attempt(self) -> bool:
        if self._retried:
            self._picked_at = self._services.clock()
        charge = self._services.router.pick(self._model, self._routed, self._tried)
        if charge is None:
            return False
        self._charge = charge
        try:
            endpoint = self._services.pool.endpoint(charge.candidate.route.url)
        except ValueError:
            logger.exception("replica %s of %s cannot be reached", charge.candidate.route.replica_id, self._model.model_uid)
            self._failed("refused")
            return True
        connection = endpoint.take()
        if connection is not None:
            self._send(connection)
        else:
            self._connect(endpoint)
        return True

    def _connect(self, endpoint: Endpoint) -> None:
        self._client.deadline = math.inf  # connecting has a timeout of its own
        task = self._waiting = asyncio.get_running_loop().create_task(self._open(endpoint))
        self._services.tasks.add(task)
        task.add_done_callback(self._connect_ended)

    def _connect_ended(self, task: asyncio.Task[None]) -> None:
        self._services.tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.error("request %s failed", self._request.request_id.decode(), exc_info=fault)
            self.crash()

    async def _open(self, endpoint: Endpoint) -> None:
        try:
            connection = await endpoint.connect(self._services.settings.connect_timeout_s)
        except (OSError, ValueError) as error:
            logger.warning("%s does not accept a connection: %s", endpoint.url, error or type(error).__name__)
            self._waiting = None
            self._failed("reset" if self._repeated else "refused")
        else:
            self._waiting = None
            self._send(connection)

    def _send(self, connection: EngineConnection) -> None:
        services, request = self._services, self._request
        self._connection = connection
        assert self._charge is not None
        route = self._charge.candidate.route
        body = request.body
        if route.served_names and self._name not in route.served_names:
            body = with_model(request.fields.get(b"content-type", b""), body, route.served_names[0])
        connection.send(self, self._engine_head(connection.endpoint, route.api_key, len(body)), body)
        if self._client.paused:
            connection.transport.pause_reading()
        self._client.deadline = services.now + (self._model.first_byte_timeout_s or services.first_byte_s)

    def _engine_head(self, endpoint: Endpoint, api_key: str, length: int) -> bytes:
        request = self._request
        parts = [b"POST ", endpoint.prefix, request.target, b" HTTP/1.1\r\n", endpoint.host_line, *request.lines]
        if api_key:
            parts.append(b"authorization: Bearer %b\r\n" % api_key.encode())
        parts.append(b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (request.request_id, length))
        return b"".join(parts)

    # --- from the engine

    def received(self, body: bytes, complete: bool) -> None:
        """The next piece of the answer has come, maybe empty, maybe the last."""
        delivery, services = self._delivery, self._services
        if delivery is None:
            delivery = self._open_delivery()
            if delivery is None:
                return
        if complete and not delivery.begun and self._ends_before_it_begins(delivery, body):
            self.lost("reset")
            return
        delivery.pass_on(body, complete)
        if delivery.committed:
            self._client.deadline = services.now + services.idle_s
        elif delivery.held:
            self._client.deadline = min(self._client.deadline, services.now + services.limits.hold_s)
        if self._first_at is None:
            if delivery.begun:
                self._note_first()
            elif delivery.committed:
                self._forget_body()
        if complete:
            self._finish(delivery)

    def lost(self, failure: Break) -> None:
        """The engine's connection has ended before its answer did."""
        connection, self._connection = self._connection, None
        if self._delivery is not None and self._delivery.committed:
            self._break_off(self._delivery, failure)
        elif connection is not None and failure == "reset" and connection.reused and not connection.answered:
            self._repeated = True  # most likely it closed an idle connection just when we used it; if it is dead, we shall see
            self._connect(connection.endpoint)
        else:
            self._failed(failure)

    def _open_delivery(self) -> Delivery | None:
        connection = self._connection
        if connection is None or not connection.answer.status:  # the head is not complete
            return None
        if connection.answer.status >= ERROR and self._turns_down(connection):
            return None
        services = self._services
        self._delivery = Delivery(connection.answer, self._request, self._client.transport, services.draining, services.limits.hold_bytes)
        return self._delivery

    def _ends_before_it_begins(self, delivery: Delivery, body: bytes) -> bool:
        """Whether a model's answer that only the end of its connection ends is empty: most likely its engine has died."""
        connection = self._connection
        return not body and delivery.status < ERROR and connection is not None and not connection.answer.complete

    def _note_first(self) -> None:
        """The commit, with what the client asked for."""
        self._first_at = self._services.clock()
        if self._charge is not None and self._delivery is not None and self._delivery.status < ERROR:
            self._charge.first_token()  # a sick replica's quick error would look like a quick prefill
        self._forget_body()

    def _forget_body(self) -> None:
        """After the commit no other attempt can follow, and the request's body is no longer needed."""
        self._request.body = self._routed.body = b""

    def _finish(self, delivery: Delivery) -> None:
        if self._charge is not None:
            self._charge.finish()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(self._services.now)
        self._end(delivery.status, whole=True)
        self._client.finished(close=delivery.closing)

    # --- when it fails

    def _failed(self, failure: Break) -> None:
        """An attempt has broken before the commit."""
        assert self._charge is not None
        candidate = self._charge.candidate
        self._charge.fail(failure)
        self._delivery = None
        self._repeated = False
        self._tried = (*self._tried, candidate)
        if failure == "reset":
            self._lost = (*self._lost, candidate)
        if len(self._lost) == MOST_LOST:  # whatever the policy says
            logger.error("request %s is suspect: %d engines were lost with it", self._routed.request_id, MOST_LOST)
            self._answer(self._refusal(failure))
        else:
            self._retry(failure)

    def _retry(self, failure: Break) -> None:
        """Make another attempt after one that broke, if the policy says so, or tell the client."""
        pause = self._pause(failure)
        if pause is None:
            self._answer(self._refusal(failure))
        elif any(candidate not in self._tried for candidate in self._model.candidates):
            self._attempt_in(pause, failure, failure)
        else:
            self._await_candidate(failure)

    def _turns_down(self, connection: EngineConnection) -> bool:
        """Whether an answer with an error status is dropped, for another replica may have a better one."""
        assert self._charge is not None
        answer, now = connection.answer, self._services.clock()
        tried = (*self._tried, self._charge.candidate)
        if all(candidate in tried or candidate.down_until > now for candidate in self._model.candidates):
            return False
        pause = self._pause("status", answer.status, retry_after_s(answer.lines))
        if pause is None:
            return False
        self._tried, self._connection = tried, None
        self._charge.finish()
        reason = str(answer.status)
        if answer.complete:
            connection.release(self._services.now)
        else:
            connection.close()
        self._attempt_in(pause, "status", "status", reason)
        return True

    def _await_candidate(self, failure: Cause) -> None:
        """No replica is left to try: one may come, or one that refused may come back. Else `failure` is told."""
        pause = self._pause("no_candidate")
        if pause is None:
            self._answer(self._refusal(failure))
        else:
            self._tried = self._lost
            self._attempt_in(pause, "no_candidate", failure)

    def _pause(self, cause: Cause, status: int = 0, retry_after: float | None = None) -> float | None:
        """Seconds until the next attempt, by the policy."""
        model_uid, retries = self._model.model_uid, self._services.retries
        return retries.pause(
            FailedAttempt(
                model_uid=model_uid,
                cause=cause,
                status=status,
                retry_after_s=retry_after,
                before=self._retried,
                answered=retries.answered(model_uid),
            )
        )

    def _attempt_in(self, pause: float, cause: Cause, failure: Cause, reason: str = "") -> None:
        self._retried = (*self._retried, cause)
        self._services.retries.made(self._model.model_uid, reason or cause)
        logger.info("request %s: %s, next attempt in %.0f ms", self._routed.request_id, reason or cause, pause * 1000)
        if pause > 0:
            self._client.deadline = math.inf  # the pause ends by itself
            self._waiting = asyncio.get_running_loop().call_later(pause, self._attempt_again, failure)
        else:
            self._attempt_again(failure)

    def _attempt_again(self, failure: Cause) -> None:
        self._waiting = None
        try:
            if not self._attempt():
                self._await_candidate(failure)
        except Exception:  # a fault here must cost one request, and not leave it waiting
            logger.exception("request %s failed", self._routed.request_id)
            self.crash()

    def _refusal(self, failure: Cause) -> Answer:
        model_uid = self._model.model_uid
        if failure == "refused":
            return errors.unreachable(model_uid)
        if failure == "reset":
            return errors.engine_lost(model_uid)
        if failure == "timeout":
            return errors.engine_silent(model_uid, self._model.first_byte_timeout_s or self._services.first_byte_s)
        return errors.no_replica(model_uid, self._model.note)

    def _break_off(self, delivery: Delivery, failure: Break) -> None:
        """The answer has failed after the commit: it must not look whole."""
        if self._charge is not None:
            self._charge.fail(failure)
        what, code = ("fell silent", "engine_timeout") if failure == "timeout" else ("failed", "engine_failed")
        told = delivery.break_off(f"The engine {what} in the middle of its answer. Try again.", code)
        self._end(delivery.status)
        if told:  # and framed to its end: a client may have sent its next request on the connection already
            self._client.finished(close=delivery.closing)
        else:
            self._client.cut()

    def _answer(self, answer: Answer) -> None:
        self._end(answer.status)
        self._client.answer(self._request, answer)
        self._client.finished(close=not self._request.keep_alive)

    # --- from the client and the clock

    def expired(self) -> None:
        """The deadline of this phase has passed."""
        delivery, services = self._delivery, self._services
        if self._client.paused:
            self._client.cut()  # it has not read for as long as an engine may be silent
        elif delivery is not None and delivery.held:
            delivery.let_go()
            self._forget_body()
            self._client.deadline = services.now + services.idle_s
        else:
            if self._connection is not None:
                self._connection.close()
            self.lost("timeout")

    def abort(self) -> None:
        """The client has gone: so does the request, at the engine too."""
        if self._ended:
            return
        self._withdraw()
        self._end(self._delivery.status if self._delivery is not None and self._delivery.committed else CLIENT_GONE)

    def crash(self) -> None:
        """A fault of the gateway's own: it has been logged, and ends this request alone."""
        if self._ended:
            return
        committed = self._delivery is not None and self._delivery.committed
        self._withdraw()
        self._end(500)
        if committed:
            self._client.cut()
        else:
            self._client.answer(self._request, errors.internal())
            self._client.finished(close=True)

    def pause(self) -> None:
        """The client reads slowly: let the engine wait."""
        if self._connection is not None:
            self._connection.transport.pause_reading()
        self._client.deadline = self._services.now + self._services.idle_s

    def resume(self) -> None:
        """The client has caught up."""
        if self._connection is not None:
            self._connection.transport.resume_reading()
        self._client.deadline = self._services.now + self._services.idle_s

    def _withdraw(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self._connection is not None:
            self._connection.close()
        if self._charge is not None:
            self._charge.fail("aborted")

    def _end(self, status: int, *, whole: bool = False) -> None:
        self._ended = True
        services, delivery, now = self._services, self._delivery, self._services.clock()
        services.measures.in_flight.dec()
        if self._retried:
            services.retries.ended(self._model.model_uid, status)
        prompt, completion, estimated = delivery.tokens() if delivery is not None and status == 200 else (None, None, False)
        services.measures.record(
            Outcome(
                model_uid=self._model.model_uid,
                status=status,
                duration_s=now - self._started,
                route_s=now - self._picked_at if whole else None,
                first_token_s=None if self._first_at is None or status >= ERROR else self._first_at - self._started,
                prompt_tokens=prompt,
                completion_tokens=completion,
                estimated=estimated,
                streamed=delivery is not None and delivery.streams,
            )
        )
