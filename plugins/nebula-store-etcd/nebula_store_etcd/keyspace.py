"""Where Nebula's keys lie in etcd: `/placements/x` at `/nebula/placements/x`, so that roles can be given ranges one can read."""

from __future__ import annotations

_ESCAPE = "/\0"
"""Stands before keys that have no slash of their own: `/nebula` + `2/x` must not end up in the keys of `/nebula2`."""


class Keyspace:
    """The keys under `prefix`, which begins with a slash and does not end with one, or is empty.

    Every key of the store has exactly one place in etcd, and all places lie under `prefix/`.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._start = prefix.encode()

    def encode(self, key: str) -> bytes:
        """The key in etcd. Raises `ValueError` for text that has no bytes."""
        is_plain = key.startswith("/") and not key.startswith(_ESCAPE)
        return (self._prefix + key if is_plain else self._prefix + _ESCAPE + key).encode()

    def decode(self, raw: bytes) -> str:
        """The store's key. Bytes that are no text are somebody else's: such a key can be seen, but neither written nor deleted."""
        key = raw.removeprefix(self._start).decode(errors="surrogateescape")
        return key.removeprefix(_ESCAPE)

    def range(self, prefix: str) -> tuple[bytes, bytes]:
        """First key and end of a range of etcd that holds all keys beginning with `prefix`; of others it may hold escaped ones."""
        start = self._start + b"/" if prefix in ("", "/") else self.encode(prefix)
        return start, start[:-1] + bytes([start[-1] + 1])
