"""A gateway worker's end of the link, which notes how old each sample is when it is in its candidate."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from nebula_core.gateway import link
from nebula_core.gateway.sockets import short_name
from nebula_core.router.table import RoutingTable

SLOT = 1000
"""Above those of the gateway's own workers."""


class Listener:
    """Follows the gateway at `socket`, as a worker that `generation` has started would. `delays_s` may be emptied at any time."""

    def __init__(self, socket: Path, generation: str) -> None:
        self._socket, self._hello = socket, link.Hello(pid=os.getpid(), slot=SLOT, generation=generation)
        self._table = RoutingTable()
        self._sampled: set[tuple[str, str]] = set()
        self.delays_s: list[float] = []

    @property
    def sampled(self) -> int:
        """Candidates that have had a sample."""
        return len(self._sampled)

    async def run(self) -> None:
        """Until cancelled."""
        with short_name(self._socket) as name:
            reader, writer = await asyncio.open_unix_connection(name)
        try:
            link.write(writer, self._hello)
            while True:
                self._take(await link.read_down(reader), writer)
        finally:
            writer.close()

    def _take(self, message: link.Down, writer: asyncio.StreamWriter) -> None:
        match message:
            case link.Table():
                self._table.update(message.models, message.removed, whole=message.whole)
                link.write(writer, link.Applied(message.revision))
            case link.Stats():
                for model_uid, replica_id, stats in message.samples:
                    candidate = self._table.replica(model_uid, replica_id)
                    if candidate is not None and stats.generated_tokens_total is not None:
                        candidate.set_stats(stats)
                        self._sampled.add((model_uid, replica_id))
                        self.delays_s.append(time.monotonic() - stats.generated_tokens_total)
