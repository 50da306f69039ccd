"""What is kept with an engine, so that the next daemon knows which replica it is and how to speak to it."""

from __future__ import annotations

import hashlib
import re

import msgspec

from nebula_core.node.replica import Replica
from nebula_core.types import Assignment


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Kept by the runtime as `Handle.note`. Fields are only ever added, with a default."""

    assignment: Assignment
    incarnation: int
    url: str
    port: int
    api_key: str

    @property
    def replica(self) -> Replica:
        """Which replica it is."""
        return (self.assignment.spec.model_uid, self.assignment.replica_id)

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


def decode(note: bytes) -> Note | None:
    """The note in `note`; `None` if it is none."""
    try:
        return msgspec.json.decode(note, type=Note)
    except msgspec.MsgspecError:
        return None


def engine_name(replica: Replica) -> str:
    """The name a runtime knows a replica's engine by: readable, safe in paths, and another one for every replica."""
    digest = hashlib.blake2b("\0".join(replica).encode(), digest_size=5).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9.-]+", "_", "-".join(replica))[:60].strip("._-")
    return f"{slug}-{digest}".lstrip("-")
