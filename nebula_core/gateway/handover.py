"""The public port changes hands without ever being closed: workers left behind give their listening sockets to the next control process.

A connection that is made meanwhile waits in its socket's queue, whichever process holds the socket. The sockets travel as file
descriptors in datagrams (SCM_RIGHTS, unix(7)) to a Unix socket beside the hub's.
"""

from __future__ import annotations

import asyncio
import math
import socket
from pathlib import Path

from nebula_core.gateway.sockets import is_at, short_name

GATHER_S = 1.0
"""How long after the first socket the others may come; workers look for a control process five times a second."""
_GIVE_TIMEOUT_S = 1.0


def give(hub: Path, listener: socket.socket) -> None:
    """Send a listening socket to the control process that asks for it at `hub`. Raises `OSError` if it does not want it any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, short_name(_beside(hub)) as name:
        sender.settimeout(_GIVE_TIMEOUT_S)
        sender.connect(name)
        socket.send_fds(sender, [b"listener"], [listener.fileno()])


class Inheritance:
    """The sockets on one address that workers left behind give while the context lasts. Those on another are closed: nobody needs them."""

    def __init__(self, hub: Path, host: str, port: int, gather_s: float = GATHER_S) -> None:
        self.listeners: list[socket.socket] = []
        self._path, self._host, self._port, self._gather_s = _beside(hub), host, port, gather_s
        self._first_at = math.inf

    def __enter__(self) -> Inheritance:
        self._path.unlink(missing_ok=True)
        self._receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.setblocking(False)
        with short_name(self._path) as name:
            self._receiver.bind(name)
        self._path.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._receiver, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._receiver)
        self._receiver.close()
        self._path.unlink(missing_ok=True)

    @property
    def gathered(self) -> bool:
        """Whether some have come, and those that have not would have by now."""
        return asyncio.get_running_loop().time() > self._first_at + self._gather_s

    def _receive(self) -> None:
        _, descriptors, _, _ = socket.recv_fds(self._receiver, 16, 1)
        for listener in (socket.socket(fileno=descriptor) for descriptor in descriptors):
            listener.set_inheritable(False)
            listener.setblocking(False)
            if is_at(listener, self._host, self._port):
                self.listeners.append(listener)
                self._first_at = min(self._first_at, asyncio.get_running_loop().time())
            else:
                listener.close()


def _beside(hub: Path) -> Path:
    return hub.with_name("gateway.listeners")
