"""Which changes of the store cause a pass: those of something that plans are decided by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nebula_core.scheduler.node_room import is_sound
from nebula_core.store import keys
from nebula_core.types import NodeStatus

_NONE = (keys.STATUS, keys.STATS, keys.GATEWAYS)
"""Our own words, and what is looked at every few seconds anyway."""


def is_cause(changed: Iterable[str], decided_by: Mapping[str, NodeStatus], nodes: Mapping[str, NodeStatus]) -> bool:
    """Whether a pass could decide otherwise now. `decided_by` are the nodes as the last one saw them, by key, `nodes` as they are."""
    return any(
        _differs(decided_by.get(key), nodes.get(key)) if key.startswith(keys.NODES) else not key.startswith(_NONE) for key in changed
    )


def _differs(one: NodeStatus | None, other: NodeStatus | None) -> bool:
    return one is not other and (one is None or other is None or _facts(one) != _facts(other))


def _facts(node: NodeStatus) -> tuple[object, ...]:
    """What placement and healing go by; how warm or busy a node is says nothing about where replicas belong."""
    gpus = [(gpu.index, gpu.name, gpu.memory_total_bytes, gpu.memory_used_bytes, is_sound(gpu)) for gpu in node.gpus]
    return node.engines, node.labels, node.machine.cpus, gpus
