"""Why a replica fits nowhere, in words for an operator: the constraint that keeps it from the most nodes, then the others in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from nebula_core.interfaces import Needs
from nebula_core.scheduler.node_room import NodeRoom, Obstacle
from nebula_core.types import ReplicaSpec

GIB = 2**30
MOST_NAMES = 5
"""Nodes that are named; the others are counted."""


def explain(spec: ReplicaSpec, needs: Needs, rooms: Sequence[NodeRoom]) -> str:
    """What keeps `spec` from `rooms`; where nothing does, the placement policy would not have them."""
    if not rooms:
        return "no node is up"
    kept_by = [(room, room.obstacle(spec, needs)) for room in rooms]
    counted = Counter(obstacle for _, obstacle in kept_by if obstacle is not None)
    if not counted:
        return f"it fits on {_nodes(len(rooms))}, but the placement policy lets it wait"
    worst = max(counted, key=lambda obstacle: (counted[obstacle], obstacle))
    return _main(worst, spec, needs, [room for room, obstacle in kept_by if obstacle is worst], rooms) + _others(counted, worst, len(rooms))


def _main(worst: Obstacle, spec: ReplicaSpec, needs: Needs, kept_from: Sequence[NodeRoom], rooms: Sequence[NodeRoom]) -> str:
    who = f"{len(kept_from)} of {_nodes(len(rooms))}" if len(kept_from) < len(rooms) else ""
    match worst:
        case Obstacle.CLOSED:
            return f"{who + ' take nothing new' if who else 'no node takes anything new'}: {_closed(kept_from)}"
        case Obstacle.ENGINE:
            offered = ", ".join(sorted({name for room in rooms for name in room.status.engines})) or "none"
            return f'{who + " do not offer" if who else "no node offers"} the engine "{spec.engine}"; nodes offer: {offered}'
        case Obstacle.LABELS:
            return f"{who + ' do not bear' if who else 'no node bears'} {_labels(needs.node_labels)}; {_borne(needs.node_labels, rooms)}"
        case Obstacle.MAX_PER_NODE:
            as_many = f"{who} have as many" if who else "every node has as many"
            return f"max_per_node is {needs.max_per_node}, and {as_many}, those that are ending included"
    return _too_few_gpus(spec, needs, kept_from)


def _closed(rooms: Sequence[NodeRoom]) -> str:
    told = ", ".join(f"{room.status.node_id} is {room.closed}" for room in rooms[:MOST_NAMES])
    return told + (f" and {len(rooms) - MOST_NAMES} more" if len(rooms) > MOST_NAMES else "")


def _too_few_gpus(spec: ReplicaSpec, needs: Needs, kept_from: Sequence[NodeRoom]) -> str:
    memory = needs.gpu_memory_bytes
    text = f"needs {_gpus(spec.gpus)}{_with_memory(needs)}; "
    if not any(room.status.gpus for room in kept_from):
        return text + "no node reports a GPU"
    best = max(kept_from, key=lambda room: len(room.fitting(memory)))
    fitting = len(best.fitting(memory))
    text += f"the best node, {best.status.node_id}, has {fitting}"
    text += " free" if memory is None else f", and {len(best.free) - fitting} with less" * (len(best.free) > fitting)
    if max(room.large_enough(memory) for room in kept_from) < spec.gpus:
        text += "; no node has as many even when it is empty"
    if faulty := sum(room.faulty for room in kept_from):
        text += f"; {_gpus(faulty)} with memory errors left out"
    return text


def _with_memory(needs: Needs) -> str:
    if needs.gpu_memory_bytes is None:
        return ""
    learned = " (as its last run took, with a margin)" if needs.is_learned else ""
    return f" with {round(needs.gpu_memory_bytes / GIB, 1):g} GiB free{learned}"


def _borne(wanted: Mapping[str, str], rooms: Sequence[NodeRoom]) -> str:
    """What the nodes bear of the wanted labels, or which others, where one is not known at all."""
    borne = sorted({label for room in rooms for label in room.status.labels.items()})
    names = {name for name, _ in borne}
    if unknown := sorted(wanted.keys() - names):
        return f"there is no label {', '.join(unknown)}, only: {', '.join(sorted(names)) or 'none'}"
    return f"nodes bear: {_labels(*[{name: value} for name, value in borne if name in wanted])}"


def _others(counted: Mapping[Obstacle, int], worst: Obstacle, nodes: int) -> str:
    words = {
        Obstacle.CLOSED: "cordoned or drained",
        Obstacle.ENGINE: "without the engine",
        Obstacle.LABELS: "without its labels",
        Obstacle.MAX_PER_NODE: "with max_per_node of them",
        Obstacle.GPUS: "with too few GPUs for it",
    }
    others = ", ".join(f"{counted[each]} {words[each]}" for each in Obstacle if each in counted and each is not worst)
    return f" (of {_nodes(nodes)}, {others})" if others else ""


def _labels(*labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for each in labels for name, value in sorted(each.items()))


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"
