"""A request on its way to an engine: pick and charge → connect or reuse → send. And when that fails, again, as `recovery.py` says.

No path leaves without ending the charge, and while a request waits for its next attempt it is charged to no replica.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import abstractmethod
from typing import TYPE_CHECKING

from nebula_core.gateway.data_path.body import with_model
from nebula_core.gateway.data_path.delivery import Delivery
from nebula_core.gateway.data_path.recovery import Recovery
from nebula_core.gateway.data_path.upstream import EngineConnection, Receiver
from nebula_core.router.events import RouteRequest

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answer_reader import AnswerHead
    from nebula_core.gateway.data_path.answers import Answer
    from nebula_core.gateway.data_path.client import ClientConnection
    from nebula_core.gateway.data_path.http import Request
    from nebula_core.gateway.data_path.pool import Endpoint
    from nebula_core.gateway.data_path.recovery import Break
    from nebula_core.gateway.data_path.services import Services
    from nebula_core.gateway.data_path.waiting import Place
    from nebula_core.router.guard import Charge
    from nebula_core.router.table import Model

logger = logging.getLogger("nebula.gateway")


class Attempts(Receiver):
    """A request to a known model, as far as its engine. `Exchange` adds the way back, to the same object: two would cost 0.5 us more."""

    __slots__ = (
        "_charge",
        "_client",
        "_connection",
        "_delivery",
        "_ended",
        "_first_at",
        "_model",
        "_name",
        "_picked_at",
        "_recovery",
        "_request",
        "_routed",
        "_services",
        "_started",
        "_waiting",
    )

    def __init__(self, services: Services, client: ClientConnection, request: Request, model: Model, name: str) -> None:
        self._services, self._client, self._request, self._model = services, client, request, model
        self._name = name
        """What the client calls the model."""
        self._routed = RouteRequest(request.request_id.decode(), model.model_uid, request.known_path or request.path.decode(), request.body)
        self._recovery: Recovery | None = None
        """Made when an attempt fails, for few do."""
        self._charge: Charge | None = None
        self._waiting: asyncio.Task[None] | asyncio.TimerHandle | Place | None = None
        """A connection being opened, the pause before the next attempt, or a place in the waiting room."""
        self._connection: EngineConnection | None = None
        self._delivery: Delivery | None = None
        """The answer, once its head is there."""
        self._started = self._picked_at = services.clock()
        self._first_at: float | None = None
        self._ended = False
        services.measures.in_flight.value += 1

    @abstractmethod
    def _answer(self, answer: Answer) -> None:
        """End the request with an answer of the gateway's own."""

    def attempt(self) -> None:
        """Send the request to a replica; if there is none, see what follows."""
        services, recovery = self._services, self._recovery
        charge = services.router.pick(self._model, self._routed, () if recovery is None else recovery.tried)
        if charge is None:
            self._without_candidate()
            return
        self._charge = charge
        try:
            endpoint = services.pool.endpoint(charge.candidate.route.url)
        except ValueError:
            logger.exception("replica %s of %s cannot be reached", charge.candidate.route.replica_id, self._model.model_uid)
            self._failed("refused")
            return
        if endpoint.idle:
            self._send(endpoint.idle.pop(), charge)  # the one used last, so that surplus ones grow old
        else:
            self._connect(endpoint)

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
            logger.warning("%s does not accept a connection: %s", endpoint.url, str(error) or type(error).__name__)
            self._waiting = None
            self._failed("reset" if self._recovery is not None and self._recovery.repeated else "refused")
        else:
            self._waiting = None
            assert self._charge is not None
            self._send(connection, self._charge)

    def _send(self, connection: EngineConnection, charge: Charge) -> None:
        services, request, client = self._services, self._request, self._client
        self._connection = connection
        route, body = charge.candidate.route, request.body
        if route.served_names and self._name not in route.served_names:
            body = with_model(request.fields.get(b"content-type", b""), body, route.served_names[0])
        connection.send(self, connection.endpoint.request_head(request, route.api_key, len(body)), body)
        if client.paused:
            connection.transport.pause_reading()
        client.deadline = services.now + (self._model.first_byte_timeout_s or services.first_byte_s)

    # --- when there is no replica

    def _without_candidate(self) -> None:
        """Where none is ready, wait for one. That all were tried in vain is another matter: the retry policy says what follows."""
        services, model = self._services, self._model
        if model.candidates or not services.room.wait_s:
            self._go_on(self._recover().without_candidate())
            return
        size, waited_s = len(self._request.body), services.clock() - self._started
        refusal = services.room.refusal(model, size, waited_s)
        if refusal is not None:
            self._answer(refusal)
            return
        self._client.deadline = math.inf  # the wait ends by itself
        self._waiting = services.room.enter(model, size, waited_s, self._attempt_again, self._answer)

    # --- when it fails

    def _recover(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(self._model, self._routed.request_id, self._services.retries)
        return self._recovery

    def _failed(self, failure: Break) -> None:
        """An attempt has broken before the commit."""
        assert self._charge is not None
        self._charge.fail(failure)
        self._delivery = None
        self._go_on(self._recover().after_break(self._charge.candidate, failure))

    def _turns_down(self, connection: EngineConnection, head: AnswerHead) -> bool:
        """Whether an answer with an error status is dropped, for another replica may have a better one."""
        assert self._charge is not None
        pause = self._recover().after_status(self._charge.candidate, head.status, head.lines, self._services.clock())
        if pause is None:
            return False
        self._connection = None
        self._charge.finish()
        if connection.answer.complete:
            connection.release(self._services.now)
        else:
            connection.close()
        self._go_on(pause)
        return True

    def _go_on(self, pause: float | None) -> None:
        """Make the next attempt after so many seconds; `None`: tell the client why there is none."""
        if pause is None:
            self._answer(self._recover().refusal(self._services.first_byte_s, self._services.room))
        elif pause > 0:
            self._client.deadline = math.inf  # the pause ends by itself
            self._waiting = asyncio.get_running_loop().call_later(pause, self._attempt_again)
        else:
            self._attempt_again()

    def _attempt_again(self) -> None:
        self._waiting = None
        self._picked_at = self._services.clock()
        try:
            self.attempt()
        except Exception:  # a fault here must cost one request, and not leave it waiting
            logger.exception("request %s failed", self._routed.request_id)
            self.crash()
