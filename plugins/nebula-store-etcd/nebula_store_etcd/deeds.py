"""What a request would do, in words: etcd says that something is not permitted, and leaves out what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nebula_store_etcd import messages
from nebula_store_etcd.rights import shown

_NAMED = 3
"""So many keys of a transaction are named."""


def deed(request: Any) -> str:
    """What follows "may not"."""
    match request.DESCRIPTOR.name:
        case messages.RangeRequest.DESCRIPTOR.name:
            return f"read {shown(request.key, request.range_end)}"
        case messages.WatchRequest.DESCRIPTOR.name:
            return f"watch {shown(request.create_request.key, request.create_request.range_end)}"
        case messages.TxnRequest.DESCRIPTOR.name:
            return f"write {_some([_written(operation) for operation in request.success])}"
        case messages.LeaseRevokeRequest.DESCRIPTOR.name:
            return f"end the lease {request.ID:x}, under which lie keys that it may not write"
    return "see or change users and roles"


def _written(operation: Any) -> str:
    put, delete = operation.request_put.key, operation.request_delete_range.key
    return shown(put or delete, b"")


def _some(keys: Sequence[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")
