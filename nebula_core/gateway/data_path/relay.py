"""One request's way to an engine, and what happens when it fails.

    pick and charge → connect or reuse → send → head held back → first body byte: commit → pieces pass → end

Until the commit nothing has been sent to the client, so that another attempt can follow a failed one. From then on a failure can
only be told: by an error event in a stream, else by a connection that ends too early. No path leaves without ending the charge.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from nebula_core.gateway.data_path import errors
from nebula_core.gateway.data_path.body import with_model
from nebula_core.gateway.data_path.delivery import Delivery
from nebula_core.gateway.data_path.measures import CLIENT_GONE, Outcome
from nebula_core.router.candidate import Candidate, RouteRequest

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answers import Answer
    from nebula_core.gateway.data_path.client import ClientConnection
    from nebula_core.gateway.data_path.http import Request
    from nebula_core.gateway.data_path.pool import Endpoint
    from nebula_core.gateway.data_path.services import Services
    from nebula_core.gateway.data_path.upstream import EngineConnection
    from nebula_core.router.guard import Charge, Failure
    from nebula_core.router.table import Model

logger = logging.getLogger("nebula.gateway")

ERROR = 400
"""Statuses from here on are no answers of a model."""
MOST_LOST = 2
"""Engines that a request may take with it before it is given up."""


def may_try_another(failure: Failure, lost: int) -> bool:
    """Whether a request that failed so before its commit may go to another replica.

    One that an engine refused has been seen by nobody. One that was `lost` with an engine's connection may be what ended that engine:
    it gets one more chance, and never a third engine. One that an engine was too slow for would only make another one slow.
    """
    return failure == "refused" or (failure == "reset" and lost < MOST_LOST)


class Exchange:
    """One request to a known model, from its last byte to its answer's."""

    __slots__ = (
        "_charge",
        "_client",
        "_connecting",
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
        "_routed",
        "_services",
        "_started",
        "_tried",
    )

    def __init__(self, services: Services, client: ClientConnection, request: Request, model: Model, name: str) -> None:
        self._services, self._client, self._request, self._model = services, client, request, model
        self._name = name
        """What the client calls the model."""
        self._routed = RouteRequest(request.request_id.decode(), model.model_uid, request.path.decode(), request.body)
        self._tried: tuple[Candidate, ...] = ()
        self._lost = 0
        """Engines whose connection ended while they had this request."""
        self._repeated = False
        """It is sent once more to the same engine, which may have read it the first time."""
        self._charge: Charge | None = None
        self._connecting: asyncio.Task[None] | None = None
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
            self._answer(errors.no_replica(self._model.model_uid, self._model.note))

    def _attempt(self) -> bool:
        if self._tried:
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
        task = self._connecting = asyncio.get_running_loop().create_task(self._open(endpoint))
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
            self._connecting = None
            self._failed("reset" if self._repeated else "refused")
        else:
            self._connecting = None
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
        self._client.deadline = services.now + services.first_byte_s

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
        delivery.pass_on(body, complete)
        if delivery.committed:
            self._client.deadline = services.now + services.idle_s
        elif delivery.held:
            self._client.deadline = min(self._client.deadline, services.now + services.limits.hold_s)
        if self._first_at is None and delivery.begun:
            self._note_first()
        if complete:
            self._finish(delivery)

    def lost(self, failure: Failure) -> None:
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
        services = self._services
        self._delivery = Delivery(connection.answer, self._request, self._client.transport, services.draining, services.limits.hold_bytes)
        return self._delivery

    def _note_first(self) -> None:
        """The commit: no other attempt can follow, so that the request's body is no longer needed."""
        self._first_at = self._services.clock()
        if self._charge is not None and self._delivery is not None and self._delivery.status < ERROR:
            self._charge.first_token()  # a sick replica's quick error would look like a quick prefill
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

    def _failed(self, failure: Failure) -> None:
        """An attempt has failed before the commit."""
        self._delivery = None
        if self._charge is not None:
            self._charge.fail(failure)
            self._tried = (*self._tried, self._charge.candidate)
        self._repeated = False
        self._lost += failure == "reset"
        if self._lost == MOST_LOST:
            logger.error("request %s is suspect: %d engines were lost with it", self._routed.request_id, self._lost)
        if not (may_try_another(failure, self._lost) and self._attempt()):
            self._answer(self._refusal(failure))

    def _refusal(self, failure: Failure) -> Answer:
        model_uid = self._model.model_uid
        if failure == "refused":
            return errors.unreachable(model_uid)
        if failure == "timeout":
            return errors.engine_silent(model_uid, self._services.first_byte_s)
        return errors.engine_lost(model_uid)

    def _break_off(self, delivery: Delivery, failure: Failure) -> None:
        """The answer has failed after the commit: it must not look whole."""
        if self._charge is not None:
            self._charge.fail(failure)
        what, code = ("fell silent", "engine_timeout") if failure == "timeout" else ("failed", "engine_failed")
        told = delivery.break_off(f"The engine {what} in the middle of its answer. Try again.", code)
        self._end(delivery.status)
        if told:
            self._client.finished(close=True)
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
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        if self._charge is not None:
            self._charge.fail("aborted")

    def _end(self, status: int, *, whole: bool = False) -> None:
        self._ended = True
        services, delivery, now = self._services, self._delivery, self._services.clock()
        services.measures.in_flight.dec()
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
