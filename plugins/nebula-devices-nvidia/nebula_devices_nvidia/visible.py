"""Which GPUs are the node's: all, or those that `CUDA_VISIBLE_DEVICES` names, in the ways that CUDA reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nebula_core import GpuStatus

MIG_INDEX = 1000
"""MIG devices are numbered from here, so that no whole GPU has the index of one."""


class Unreadable(Exception):
    """GPUs cannot be read in this way, now; the message says why."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG device of one: what a replica can be given on its own."""

    status: GpuStatus
    card_index: int
    card_uuid: str


def mig_index(card_index: int, number: int) -> int:
    """The index of a card's MIG device: 1032 is device 2 of card 3. A card has seven at most."""
    return MIG_INDEX + 10 * card_index + number


def visible(gpus: Sequence[Gpu], named: str | None) -> tuple[GpuStatus, ...]:
    """The GPUs that `named` names, by index; `None`: all. As in CUDA, an entry that names nothing hides itself and what follows."""
    chosen = list(gpus)
    if named is not None:
        chosen = []
        for entry in named.split(","):
            matching = [gpu for gpu in gpus if _names(entry.strip(), gpu)]
            if not matching:
                break
            chosen += matching
    return tuple(status for _, status in sorted({gpu.status.index: gpu.status for gpu in chosen}.items()))


def _names(entry: str, gpu: Gpu) -> bool:
    """Whether an entry is this GPU: its card's index, or the beginning of its own or its card's UUID."""
    if entry.isdecimal():
        return int(entry) == gpu.card_index
    return entry.startswith(("GPU-", "MIG-")) and (gpu.card_uuid.startswith(entry) or gpu.status.uuid.startswith(entry))
