"""Putting a role together: which parts it has, in which order they open, and that they close in the reverse order."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a process may be; `nebula up` is all three."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    NODE = "node"
