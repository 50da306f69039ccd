"""Keeps the gateway's workers running: one process per listening socket, started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A worker that ran for this long is started again at once when it dies."""
KILL_AFTER_S = 2.0
"""Time that a worker has to go after its requests should have ended."""


class Supervisor:
    """The worker processes of this gateway. The sockets stay open here, so that a new worker goes on where the dead one stopped."""

    def __init__(self, sockets: Sequence[socket.socket], hub_path: Path, generation: str, logger: logging.Logger) -> None:
        self._sockets, self._hub_path, self._generation, self._logger = sockets, hub_path, generation, logger
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = False
        self.deaths = 0
        """Workers that ended without being asked to."""

    async def run(self) -> None:
        """Start all workers and keep them running, for ever."""
        async with asyncio.TaskGroup() as group:
            for slot, listener in enumerate(self._sockets):
                group.create_task(self._keep(slot, listener), name=f"gateway worker {slot}")

    async def wait_gone(self, seconds: float) -> None:
        """After workers were asked to go: wait for it, at the end by force. No worker is started again, and the port is closed."""
        self._stopping = True
        for listener in self._sockets:
            listener.close()  # who connects now would wait for nobody, and be cut off when the last worker is gone
        waiting = [asyncio.ensure_future(process.wait()) for process in self._processes.values()]
        if not waiting:
            return
        try:
            await asyncio.wait(waiting, timeout=seconds + KILL_AFTER_S)
        finally:  # also when whoever waits is told not to
            for process in self._processes.values():
                if process.returncode is None:
                    process.kill()
            await asyncio.wait(waiting)

    async def _keep(self, slot: int, listener: socket.socket) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_S
        while not self._stopping:
            started = loop.time()
            process = self._processes[slot] = await self._start(slot, listener)
            code = await process.wait()
            if self._stopping:
                return
            self.deaths += 1
            pause = FIRST_PAUSE_S if loop.time() - started > STEADY_S else min(pause * 2, LONGEST_PAUSE_S)
            self._logger.error("gateway worker %d (pid %d) ended with %s; starting it again in %.1f s", slot, process.pid, code, pause)
            await asyncio.sleep(pause)

    async def _start(self, slot: int, listener: socket.socket) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "nebula_core.gateway.worker"),  # -P: a random.py in the current folder is none of ours
            *("--hub", os.fspath(self._hub_path), "--listen-fd", str(listener.fileno())),
            *("--slot", str(slot), "--generation", self._generation),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # a Ctrl-C is for us, also while the worker still loads and cannot ignore it
        )
