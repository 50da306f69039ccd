"""Values of the store as JSON with a schema version, kind to what a newer Nebula wrote.

Fields that this version does not know are ignored when read and kept when the value is rewritten over the old one. That goes for the
value's own fields, not for those inside of lists and tables in it: there, what was left out on purpose looks the same.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from nebula_core.errors import StoreError
from nebula_core.types import Value

SCHEMA_VERSION = 1
_FIELD = "schema_version"
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading may fail with: bytes that are no text, and lists within lists without end, are no faults in msgspec's own terms."""

V = TypeVar("V", bound=Value)


def encode(value: Value, over: bytes | None = None) -> bytes:
    """`value` as JSON. With `over`, the bytes it replaces, fields unknown to this version and a newer schema version are kept."""
    fields: dict[str, Any] = msgspec.to_builtins(value)
    version = SCHEMA_VERSION
    if over is not None:
        old = _object(over)
        version = _newer(version, old.pop(_FIELD, None))
        fields = {**{name: old[name] for name in old if name not in fields}, **fields}
    return msgspec.json.encode({_FIELD: version, **fields})


def decode(type_: type[V], data: bytes) -> V:
    """The value in `data`. Raises `StoreError` if it is not one."""
    try:
        return msgspec.json.decode(data, type=type_)
    except _UNREADABLE as error:
        raise StoreError(f"this is not a {type_.__name__}: {error}") from error


def _newer(version: int, other: Any) -> int:
    return max(version, other) if isinstance(other, int) else version


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except _UNREADABLE:
        return {}
    return value if isinstance(value, dict) else {}
