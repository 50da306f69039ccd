"""Listening sockets and the path of the Unix socket between control and workers."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nebula_core.errors import NebulaError

BACKLOG = 4096
LONGEST_UNIX_PATH = 100
"""A Unix socket's path has room for 108 bytes; longer ones are reached through a file descriptor of their folder."""


def bind_public(host: str, port: int, count: int, table: str, inherited: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """`count` listening sockets on one address, among which the kernel spreads connections. Raises `NebulaError` if it is taken.

    Each worker has a socket of its own that the control process keeps open as well, so that connections which wait for a worker
    that died are taken up by the one that replaces it. Such sockets would happily share the port with another program's, so the
    address is first bound alone, unless some of them are `inherited`; of these, those beyond `count` are closed.
    """
    for spare in inherited[count:]:
        spare.close()
    sockets = list(inherited[:count])
    port = sockets[0].getsockname()[1] if sockets else _free_port(host, port, table)
    for _ in range(count - len(sockets)):
        listener = _bind(host, port, f"{table} ", shared=True)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        sockets.append(listener)
    return sockets


def bind_one(host: str, port: int, table: str, prefix: str = "") -> socket.socket:
    """One listening socket. Raises `NebulaError` if the address is taken or not this machine's.

    The message names the keys `host` and `port` of the settings table, or with `prefix` before them.
    """
    listener = _bind(host, port, f"{table} {prefix}", shared=False)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def is_at(listener: socket.socket, host: str, port: int) -> bool:
    """Whether a socket is bound to this address; port 0 is any."""
    bound = listener.getsockname()
    try:
        wanted = socket.getaddrinfo(host, port or bound[1], type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4]
    except OSError:
        return False  # binding to it will say what is wrong
    return bool(bound == wanted)


def _free_port(host: str, port: int, table: str) -> int:
    probe = _bind(host, port, f"{table} ", shared=False)
    port = probe.getsockname()[1]
    probe.close()
    return port


def _bind(host: str, port: int, keys: str, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise NebulaError(f'{keys}host = "{host}" cannot be listened on: {error.strerror or error}') from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(address)
        if not shared:
            listener.listen(1)  # with SO_REUSEADDR only listening tells that somebody else listens
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise NebulaError(f"port {port} on {host} is in use; stop what listens there or choose another {keys}port") from error
        raise NebulaError(f"cannot listen on {host}:{port} ({keys}host): {error.strerror}") from error
    return listener


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name for `path` short enough for a Unix socket to be made at or connected to, while the context lasts."""
    if len(os.fsencode(path)) <= LONGEST_UNIX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
