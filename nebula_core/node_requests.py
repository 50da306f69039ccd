"""Node requests: what operators ask of nodes, and how it is written.

A node of which nothing is asked has no request: it gets replicas and keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nebula_core.drafts import ATTEMPTS
from nebula_core.errors import InvalidNodeRequest, StoreError, WriteConflict
from nebula_core.interfaces import Delete, Entry, Put, Store, Unchanged, Write
from nebula_core.store import codec, keys
from nebula_core.types import NodeRequest

NOTHING = {"cordoned": False, "drained": False, "given_up": False}


def changed(request: NodeRequest, changes: Mapping[str, bool]) -> NodeRequest:
    """`request` with other wishes. Draining a node and giving it up cordon it, too; uncordoning it takes all back.

    Raises `InvalidNodeRequest` for changes that contradict each other.
    """
    more = [name for name in ("drained", "given_up") if changes.get(name)]
    if changes.get("cordoned", True):
        return msgspec.structs.replace(request, **{**changes, **({"cordoned": True} if more else {})})
    if more:
        raise InvalidNodeRequest(f'the node "{request.node_id}": what is {more[0]} gets nothing new, so that cordoned cannot be false')
    return msgspec.structs.replace(request, **NOTHING)


async def ask(store: Store, node_id: str, changes: Mapping[str, bool]) -> NodeRequest:
    """Change what is asked of a node, as `changed` does, and return it.

    Raises `InvalidNodeRequest`, also if a node that is up is to be given up; `WriteConflict`, `StoreUnavailable`.
    """
    for _ in range(ATTEMPTS):
        conditions = [await _is_missing(store, node_id)] if changes.get("given_up") else []
        entry = await store.get(keys.node_request(node_id))
        old = _read(entry, node_id)
        request = changed(old or NodeRequest(node_id=node_id), changes)
        unchanged = Unchanged(keys.node_request(node_id), entry.mod_revision if entry else 0)
        if await store.transact([_write(request, entry if old else None)], [unchanged, *conditions]) is not None:
            return request
    raise WriteConflict(f'others keep changing what is asked of the node "{node_id}"; nothing was written, try again')


async def _is_missing(store: Store, node_id: str) -> Unchanged:
    """The condition that a node is not heard of. Raises `InvalidNodeRequest` if it is."""
    if await store.get(keys.node(node_id)) is not None:
        raise InvalidNodeRequest(f'the node "{node_id}" is up, and only one that is missing can be given up; drain it instead')
    return Unchanged(keys.node(node_id), 0)


def _read(entry: Entry | None, node_id: str) -> NodeRequest | None:
    """What is asked of a node; `None`, if somebody wrote what cannot be read: nobody goes by that, and it is written over."""
    try:
        return msgspec.structs.replace(codec.decode(NodeRequest, entry.value), node_id=node_id) if entry else None
    except StoreError:
        return None


def _write(request: NodeRequest, old: Entry | None) -> Write:
    """What makes a request of an `old` one. Fields that only a newer Nebula knows are kept, even where nothing else is asked."""
    key, value = keys.node_request(request.node_id), codec.encode(request, over=old.value if old else None)
    nothing = codec.encode(NodeRequest(node_id=request.node_id))
    return Delete(key) if value == nothing else Put(key, value)
