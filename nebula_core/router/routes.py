"""What a routing table is made of. Plain data: it comes from the control process, and is kept on disk."""

from __future__ import annotations

import msgspec


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as the routing table holds it: where it is and under what names it answers."""

    model_uid: str = ""
    replica_id: str
    assignment_version: str
    incarnation: int
    url: str
    served_names: tuple[str, ...] = ()
    api_key: str = ""


class ModelRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the routing table, as the control process hands it to the workers."""

    model_uid: str
    aliases: tuple[str, ...] = ()
    created: int = 0
    strategy: str | None = None
    first_byte_timeout_s: float | None = None
    routes: tuple[Route, ...] = ()
    """Replicas that may be routed to."""
    note: str = ""
    """Why there is none, in words for a client."""
    off: bool = False
    """Its operator wants no replica of it, so that none will come."""
    boot_s: float | None = None
    """Time that a replica takes to be ready, about, as learned; `None`: not known."""
