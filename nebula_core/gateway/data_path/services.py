"""What every connection of the data path shares."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nebula_core.gateway.data_path.cors import Cors
from nebula_core.gateway.data_path.http import Request
from nebula_core.gateway.data_path.known_heads import KnownHeads
from nebula_core.gateway.data_path.limits import Limits
from nebula_core.gateway.data_path.measures import Measures
from nebula_core.gateway.data_path.outbox import Outbox
from nebula_core.gateway.data_path.pool import Pool
from nebula_core.gateway.data_path.retries import Retries
from nebula_core.gateway.data_path.waiting import WaitingRoom
from nebula_core.interfaces import Retry
from nebula_core.metrics import Metrics
from nebula_core.settings import GatewaySettings

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.client import ClientConnection
    from nebula_core.router.router import Router


_SANE_ID = re.compile(rb"[!-~](?:[ -~]{0,126}[!-~])?")


class Services:
    """Shared by all connections of one gateway worker."""

    def __init__(
        self,
        router: Router,
        settings: GatewaySettings,
        limits: Limits,
        metrics: Metrics,
        retry: Retry | None,
        clock: Callable[[], float],
        request_ids: Iterator[bytes],
    ) -> None:
        self.router, self.settings, self.limits = router, settings, limits
        self.measures = Measures(metrics)
        self.retries = Retries(retry, self.measures, metrics, clock)
        self.room = WaitingRoom(router.table, settings, metrics, clock)
        self.cors = Cors(settings.cors_origins)
        self.outbox = Outbox()
        self.pool = Pool(limits, self.outbox)
        self.clock = clock
        """Monotonic seconds, exact."""
        self.now = clock()
        """The same at the last sweep: exact enough for timeouts, and free."""
        self.keep_alive_s = float(settings.keep_alive_s)
        self.first_byte_s = float(settings.first_byte_timeout_s)
        self.idle_s = float(settings.idle_timeout_s)
        """These three are copies of settings: an attribute of a pydantic model costs 50 ns, and the last one is read per piece."""
        self._request_ids = request_ids
        self.known_requests: KnownHeads[Request] = {}
        self.draining = False
        self.connections: set[ClientConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """Connects under way; each is cancelled with the request it is for."""
        self.emptied = asyncio.Event()
        """Set when the last connection has ended while draining."""

    def identify(self, request: Request) -> None:
        """Give a request its id, the client's own if that is sane, and the lines that go on every answer to it."""
        fields = request.fields
        given = fields.get(b"x-request-id")
        request.request_id = given if given is not None and _SANE_ID.fullmatch(given) else next(self._request_ids)
        lines = b"x-request-id: %b\r\n" % request.request_id
        request.return_lines = lines + self.cors.lines(fields.get(b"origin")) if self.cors.enabled else lines

    def forget(self, connection: ClientConnection) -> None:
        """A client's connection has ended."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self.emptied.set()
