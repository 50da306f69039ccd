"""`Waiting`: plain data that `replica.py` works on."""

from __future__ import annotations

import msgspec

from nebula_core import PrefixBlocks


class Waiting(msgspec.Struct, gc=False):
    """A request whose first token has not come. A struct, for that is made in a third of a dataclass's time."""

    blocks: PrefixBlocks
    depth: int
    """Leading blocks that the replica held already."""
    work: int
    """Bytes that it has to compute."""
    service_s: float
    """Expected seconds once its turn has come."""
    since: float
    predicted_s: float
    """Expected seconds from `since` to its first token."""
    timed: bool
    """The first byte of its answer will tell when its turn was over."""
    forgotten: int = 0
    """`PrefixIndex.forgotten` when it came."""
    chosen_here: bool = False
    """This worker chose the replica, and no other one."""
