"""Open files: every connection is one, and a gateway has two per stream."""

from __future__ import annotations

import resource

from nebula_bench.gateway.errors import MissingError

SPARE = 100
"""Files besides the connections: libraries, logs, sockets of the control side."""
PER_SOURCE = 8000
"""Connections from one loopback address: its ports are about 28,000, and ports of connections that have ended rest for a minute."""


def take_files(streams: int) -> None:
    """Raise this process's limit as far as allowed. Raises `MissingError` if a worker's, which is the same, is below what it needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 2 * streams + SPARE
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if hard < 2 * streams + SPARE:
        raise MissingError(
            f"{streams} streams through one worker need {2 * streams + SPARE} open files in it, and the hard limit here is {hard}. "
            f"Raise it as root (ulimit -Hn {4 * streams}; LimitNOFILE= for a systemd unit, --ulimit nofile= for a container), "
            f"or ask for at most {(hard - SPARE) // 2} streams."
        )


def source(number: int) -> str:
    """The loopback address that the connection with this number comes from."""
    return f"127.0.0.{1 + number // PER_SOURCE}"
