"""Ports for tests that run beside each other."""

from __future__ import annotations

import contextlib
import socket

_FIRST, _LAST = 20_000, 32_000
"""Below the ports that the kernel gives to clients (from 32768 on), so that no connection of any program takes one meanwhile."""
_STRIDE = 32
"""From one guard to the next, the same for ranges of all sizes, so that none reaches into another."""


class PortRange:
    """`count` ports on loopback that no other test is given until `close`: whoever listens on the port before them has them."""

    def __init__(self, count: int) -> None:
        if count >= _STRIDE:
            raise ValueError(f"{count} ports in a row: {_STRIDE - 1} are the most")
        for guard in range(_FIRST, _LAST, _STRIDE):
            ports = range(guard + 1, guard + 1 + count)
            with contextlib.suppress(OSError):
                self._guard = socket.create_server(("127.0.0.1", guard))
                if all(map(_is_free, ports)):
                    break
                self._guard.close()
        else:
            raise RuntimeError(f"no {count} ports in a row are free between {_FIRST} and {_LAST}")
        self.ports = list(ports)

    def close(self) -> None:
        """Give them back."""
        self._guard.close()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. Nothing keeps others from taking them: a `PortRange` is for longer than that."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
