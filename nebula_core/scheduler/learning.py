"""How much memory a model's GPUs need, learned from what its replicas took: the nodes' figures, kept in the model's status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from nebula_core.interfaces import Needs
from nebula_core.scheduler.world import Observed, Wanted
from nebula_core.types import RUN, Assignment, GpuMemoryPeak, GpuStatus, NodeStatus, ReplicaSpec

GROWTH = 1.01
"""A peak that is hardly higher is not worth a write."""
USABLE = 0.95
"""Of a GPU's memory; the rest is the driver's. Engines that take all they find must fit again where they ran."""


def peak(wanted: Wanted, assignments: Iterable[Assignment], observed: Observed, before: GpuMemoryPeak | None) -> GpuMemoryPeak | None:
    """The highest use of a GPU that was ever seen of the wanted spec; of the one before as long as none is wanted.

    Nothing is learned of replicas that are not all alike, or have no GPUs.
    """
    spec = _only(wanted.specs)
    if spec is None:
        return before if not wanted.specs else None
    digest = spec.version("", ())
    known = before if before is not None and before.spec == digest else None
    seen = max(_used_by(spec, assignments, observed), default=None)
    if seen is None or (known is not None and seen[0] <= known.used_bytes * GROWTH):
        return known
    return GpuMemoryPeak(spec=digest, used_bytes=seen[0], total_bytes=seen[1])


def learned(wanted: Wanted, known: GpuMemoryPeak | None, margin: float) -> Needs:
    """What the replicas need, the memory of an earlier run with a margin included if the request declares none."""
    spec = _only(wanted.specs)
    if spec is None or known is None or wanted.needs.gpu_memory_bytes is not None or known.spec != spec.version("", ()):
        return wanted.needs
    memory = int(min(known.used_bytes * (1 + margin), known.total_bytes * USABLE))
    return replace(wanted.needs, gpu_memory_bytes=memory, is_learned=True)


def _only(specs: Sequence[ReplicaSpec]) -> ReplicaSpec | None:
    return specs[0] if specs and specs[0].gpus and all(spec == specs[0] for spec in specs) else None


def _used_by(spec: ReplicaSpec, assignments: Iterable[Assignment], observed: Observed) -> Iterable[tuple[int, int]]:
    """`(used, total)` bytes of each GPU of its replicas that are ready: no other replica is on them."""
    for assignment in assignments:
        if assignment.wanted == RUN and assignment.spec == spec and observed.ready(assignment):
            for gpu in _gpus(observed.nodes[assignment.node_id], assignment.gpu_indexes):
                if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
                    yield gpu.memory_used_bytes, gpu.memory_total_bytes


def _gpus(node: NodeStatus, indexes: tuple[int, ...]) -> list[GpuStatus]:
    return [gpu for gpu in node.gpus if gpu.index in indexes]
