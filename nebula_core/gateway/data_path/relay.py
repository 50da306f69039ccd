"""One request from its last byte to its answer's.

    pick and charge → connect or reuse → send → head held back → first body byte: commit → pieces pass → end

Up to the send, and again whenever that fails, it is in `attempts.py`; here is what comes back. Until the commit nothing has been sent
to the client, so that another attempt can follow a failed one. From then on a failure can only be told: by an error event in a stream,
else by a connection that ends too early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nebula_core.gateway.data_path import errors
from nebula_core.gateway.data_path.attempts import Attempts
from nebula_core.gateway.data_path.delivery import UNKNOWN, Delivery
from nebula_core.gateway.data_path.measures import CLIENT_GONE, ERROR

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.answers import Answer
    from nebula_core.gateway.data_path.recovery import Break


class Exchange(Attempts):
    """One request to a known model, and its answer on the way to the client."""

    __slots__ = ()

    # --- from the engine

    def received(self, body: bytes, complete: bool) -> None:
        """The next piece of the answer has come, maybe empty, maybe the last."""
        delivery, services = self._delivery, self._services
        if delivery is None:
            delivery = self._open_delivery()
            if delivery is None:
                return
        elif delivery.begun and not complete:  # most pieces of a stream
            delivery.pass_on(body, False)
            self._client.deadline = services.now + services.idle_s
            return
        if complete and not body and not delivery.begun and self._is_cut_off(delivery):
            self.lost("reset")
            return
        delivery.pass_on(body, complete)
        if self._first_at is None and delivery.committed:
            self._commit(delivery, complete)
        if complete:
            self._finish(delivery)
        elif delivery.committed:
            self._client.deadline = services.now + services.idle_s
        elif delivery.held:
            self._client.deadline = min(self._client.deadline, services.now + services.limits.hold_s)

    def lost(self, failure: Break) -> None:
        """The engine's connection has ended before its answer did."""
        connection, self._connection = self._connection, None
        if self._delivery is not None and self._delivery.committed:
            self._break_off(self._delivery, failure)
        elif connection is not None and failure == "reset" and connection.reused and not connection.answered:
            self._recover().repeated = True  # most likely it closed an idle connection just when we used it; if it is dead, we shall see
            self._connect(connection.endpoint)
        else:
            self._failed(failure)

    def _open_delivery(self) -> Delivery | None:
        connection = self._connection
        head = connection.answer.head if connection is not None else None
        if connection is None or head is None:  # the head is not complete
            return None
        if head.status >= ERROR and self._turns_down(connection, head):
            return None
        services, length = self._services, connection.answer.length
        self._delivery = Delivery(head, length, self._request, self._client.transport, services.draining, services.limits.hold_bytes)
        return self._delivery

    def _is_cut_off(self, delivery: Delivery) -> bool:
        """Whether a model's answer that only the end of its connection ends is empty: most likely its engine has died."""
        connection = self._connection
        return delivery.status < ERROR and connection is not None and not connection.answer.complete

    def _commit(self, delivery: Delivery, complete: bool) -> None:
        """The client has got something. No other attempt can follow, and the request's body is no longer needed."""
        self._request.body = self._routed.body = b""
        if delivery.begun:
            self._first_at = self._services.clock()
            charge = self._charge
            if charge is not None and delivery.status < ERROR:  # a sick replica's quick error would look like a quick prefill
                if complete:
                    charge.finish(whole=True)
                else:
                    charge.first_token()

    def _finish(self, delivery: Delivery) -> None:
        if self._charge is not None:
            self._charge.finish()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(self._services.now)
        self._end(delivery.status, whole=True)
        self._client.finished(close=delivery.closing)

    def _break_off(self, delivery: Delivery, failure: Break) -> None:
        """The answer has failed after the commit: it must not look whole."""
        if self._charge is not None:
            self._charge.fail(failure)
        what, code = ("fell silent", "engine_timeout") if failure == "timeout" else ("failed", "engine_failed")
        told = delivery.break_off(f"The engine {what} in the middle of its answer. Try again.", code)
        self._end(delivery.status)
        if told:  # and framed to its end: a client may have sent its next request on the connection already
            self._client.finished(close=delivery.closing)
        elif delivery.shows_its_end:
            self._client.finished(close=True)  # not reset: that would destroy what the client has not read yet, of earlier answers too
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
            self._commit(delivery, False)
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
        self._ended, self._waiting = True, None  # a place in the waiting room holds methods of this object: a cycle would keep the body
        services, delivery, first_at, model_uid = self._services, self._delivery, self._first_at, self._model.model_uid
        now = services.clock()
        services.measures.in_flight.value -= 1
        if self._recovery is not None and self._recovery.causes:
            services.retries.ended(model_uid, status)
        services.measures.record(
            model_uid,
            status,
            now - self._started,
            now - self._picked_at if whole else None,
            None if first_at is None or status >= ERROR else first_at - self._started,
            delivery.tokens() if delivery is not None and status == 200 else UNKNOWN,
            delivery is not None and delivery.streams,
        )
