"""Which keys each role of Nebula reads and writes, as ranges of etcd, and what its user and role in etcd are called.

Every role reads nearly all of the state, for each serves the admin API. Writing is where they differ: a node that is taken over can
lie about engines, but change no plan and no wish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from nebula_store_etcd.keyspace import Keyspace
from nebula_store_etcd.settings import EtcdSettings

READ = (
    "/model_requests/",
    "/node_requests/",
    "/placements/",
    "/status/",
    "/nodes/",
    "/endpoints/",
    "/stats/",
    "/gateways/",
    "/leader/scheduler",
)
"""What every role reads. Keys that begin with these, as everywhere here."""

WRITE: Mapping[str, tuple[str, ...]] = {
    "gateway": ("/gateways/", "/model_requests/", "/earlier_requests/", "/node_requests/"),
    "scheduler": ("/placements/", "/status/", "/leader/scheduler", "/model_requests/", "/earlier_requests/", "/node_requests/", "/seeds/"),
    "node": ("/nodes/", "/endpoints/", "/stats/"),
}
"""What each role writes and reads, too: model requests come from gateways' admin API, and from the settings of schedulers."""


class Kind(IntEnum):
    """Kinds of rights, by etcd's numbers."""

    READ = 0
    WRITE = 1
    BOTH = 2


@dataclass(frozen=True)
class Grant:
    """A right of an etcd role to the keys from `start` up to `end`, or to `start` alone if `end` is empty."""

    kind: Kind
    start: bytes
    end: bytes


def grants(role: str, prefix: str) -> frozenset[Grant]:
    """The rights of a role under `[store_etcd] prefix`."""
    keyspace = Keyspace(prefix)
    areas = {**dict.fromkeys(READ, Kind.READ), **dict.fromkeys(WRITE[role], Kind.BOTH)}
    return frozenset(Grant(kind, *keyspace.range(area)) for area, kind in areas.items())


def name(role: str, prefix: str) -> str:
    """What a role's user and role are called in etcd, different for every prefix: `nebula-node`, but `nebula/lab-node` under `/lab`."""
    default = EtcdSettings.model_fields["prefix"].default
    return f"nebula{'' if prefix == default else prefix or '/'}-{role}"


def shown(start: bytes, end: bytes) -> str:
    """A range as people read it: `/nebula/nodes/*`."""
    text = start.decode(errors="replace")
    if not end:
        return text
    return f"{text}*" if end == start[:-1] + bytes([start[-1] + 1]) else f"{text} to {end.decode(errors='replace')}"
