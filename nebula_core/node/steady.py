"""When a reading is near enough to what was told before: jitter is not worth a write to the store every few seconds."""

from __future__ import annotations


def near(one: float | None, other: float | None, tolerance: float) -> bool:
    """Whether both are known and differ by no more than `tolerance`, or both are unknown."""
    return one == other if one is None or other is None else abs(one - other) <= tolerance
