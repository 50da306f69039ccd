"""Nodes with GPUs, and replicas that need some: for tests of where replicas are placed. Memory is in GiB here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from nebula_core.interfaces import Needs
from nebula_core.scheduler.world import Wanted
from nebula_core.testing.fleet import Fleet
from nebula_core.types import GpuStatus, NodeStatus, ReplicaSpec

GIB = 2**30


def spec(model: str = "m", gpus: int = 1, **engine_args: Any) -> ReplicaSpec:
    """A replica of a model."""
    return ReplicaSpec(model_uid=model, engine="vllm", gpus=gpus, engine_args=engine_args)


def wanted(
    number: int, gpus: int = 1, model: str = "m", args: Mapping[str, Any] | None = None, memory: float | None = None, **needs: Any
) -> Wanted:
    """So many replicas, each of which needs so many GPUs with so much memory; `needs` are further fields of `Needs`."""
    memory_bytes = None if memory is None else int(memory * GIB)
    return Wanted((spec(model, gpus, **(args or {})),) * number, Needs(gpu_memory_bytes=memory_bytes, **needs))


def gpu(index: int, total: float = 80, used: float = 0.5, **fields: Any) -> GpuStatus:
    """A GPU as its node reports it."""
    return GpuStatus(index=index, memory_total_bytes=int(total * GIB), memory_used_bytes=int(used * GIB), **fields)


def node(name: str, *gpus: GpuStatus, engines: tuple[str, ...] = ("vllm",), **fields: Any) -> NodeStatus:
    """A node with these GPUs."""
    return NodeStatus(node_id=name, address="127.0.0.1", engines=engines, gpus=gpus, **fields)


def using(fleet: Fleet, name: str, used: float) -> None:
    """The node reports that each of its GPUs has so much in use."""
    gpus = tuple(msgspec.structs.replace(each, memory_used_bytes=int(used * GIB)) for each in fleet.nodes[name].gpus)
    fleet.nodes[name] = msgspec.structs.replace(fleet.nodes[name], gpus=gpus)
