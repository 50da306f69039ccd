"""`PrefixBlocks`: what `prefix.py` finds in a prompt."""

from __future__ import annotations

import msgspec


class PrefixBlocks(msgspec.Struct, frozen=True):
    """The whole blocks of a prompt, from its start. Plain data: gateways send it to each other, traces supply it."""

    hashes: tuple[int, ...]
    """One per block, unsigned 64 bits; each stands for everything up to and including its block."""
    sizes: tuple[int, ...]
    """Bytes of each block; the tools count into the first."""
    total: int
    """Bytes of the whole prompt, with those behind the last whole block."""
    streamed: bool = True
    """The client wants a stream, so that the answer's first byte comes with its first token."""
