"""Ports for engines."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from nebula_core.errors import LaunchError


def free_port(host: str, first: int, last: int, taken: Collection[int]) -> int:
    """The first port of the range that nobody listens on and that is not `taken`. Raises `LaunchError` naming the settings."""
    for port in range(first, last + 1):
        if port not in taken and _can_listen(host, port):
            return port
    raise LaunchError(f"no port is free for an engine in {first}-{last}; widen [node] engine_ports")


def _can_listen(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections of an earlier engine that linger in the kernel take no port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise LaunchError(f'engines cannot listen on "{host}": {error.strerror}; set [node] address to one of this machine') from error
        return False
    return True


def base_url(host: str, port: int) -> str:
    """The URL of what listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
