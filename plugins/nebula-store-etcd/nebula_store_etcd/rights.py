"""Which keys each role of Nebula reads and writes, as ranges of etcd, and what its user and role in etcd are called.

Every role follows all of the state, for each serves the admin API. Writing is where they differ: a node that is taken over can
lie about engines, but change no plan and no wish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nebula_store_etcd.keyspace import Keyspace
from nebula_store_etcd.settings import EtcdSettings

READ = (
    "/model_requests/",
    "/placements/",
    "/status/",
    "/nodes/",
    "/endpoints/",
    "/stats/",
    "/gateways/",
    "/seeds/",
    "/leader/scheduler",
)
"""What every role reads. Keys that begin with these, as everywhere here."""

WRITE: Mapping[str, tuple[str, ...]] = {
    "gateway": ("/gateways/", "/model_requests/"),
    "scheduler": ("/placements/", "/status/", "/leader/scheduler", "/model_requests/", "/seeds/"),
    "node": ("/nodes/", "/endpoints/", "/stats/"),
}
"""What each role writes, too: gateways for the admin API's sake wishes, schedulers those of the settings."""


@dataclass(frozen=True, order=True)
class Grant:
    """A right of an etcd role: to read the keys from `start` up to `end`, and with `write` to write them."""

    start: bytes
    end: bytes
    write: bool

    def __str__(self) -> str:
        return f"{'read and write' if self.write else 'read'} {shown(self.start, self.end)}"


def grants(role: str, prefix: str) -> frozenset[Grant]:
    """The rights of a role under `[store_etcd] prefix`."""
    keyspace = Keyspace(prefix)
    return frozenset(Grant(*keyspace.range(area), write=area in WRITE[role]) for area in READ)


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
