"""What a node knows of its own keys in the store: at which revision each stands, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from nebula_core.errors import StoreError
from nebula_core.interfaces import Entry
from nebula_core.store import keys
from nebula_core.store.codec import decode
from nebula_core.types import EndpointInfo, EndpointStats, Value


@dataclass(frozen=True)
class Standing:
    """One key as it stands."""

    revision: int
    """Its `mod_revision`; 0: there is no such key."""
    data: bytes | None = None
    value: Value | None = None
    """What this node wrote there; `None` if that is not known to be there."""
    lease: str = ""
    """The lease that this node wrote it under."""

    @classmethod
    def read(cls, entry: Entry | None) -> Standing:
        """As just read from the store."""
        return cls(0) if entry is None else cls(entry.mod_revision, entry.value)

    def is_doubtful(self, seen: int) -> bool:
        """Whether somebody else may have written it, given at which revision it was seen. What is seen lags behind what was written."""
        return seen > self.revision or (seen == 0 and self.revision != 0)

    def says(self, value: Value | None, lease: str) -> bool:
        """Whether nothing has to be written for it to say `value` under `lease`."""
        if value is None:
            return self.revision == 0
        return self.lease == lease and _same(self.value, value)

    def is_anothers(self, key: str, node_id: str, value: Value | None) -> bool:
        """Whether this is the endpoint of another node, which this one's `value` must not replace.

        A replica that moves is started elsewhere with a higher incarnation: from then on its keys are the other node's.
        """
        if self.data is None or not key.startswith(keys.ENDPOINTS):
            return False
        try:
            endpoint = decode(EndpointInfo, self.data)
        except StoreError:
            return False  # not what an endpoint is, and this node's to replace
        ours = value.incarnation if isinstance(value, EndpointInfo) else 0
        return endpoint.node_id != node_id and endpoint.incarnation > ours


def _same(one: Value | None, other: Value) -> bool:
    """Equal but for the age of a sample: an idle engine's signals are not written again every heartbeat."""
    if isinstance(one, EndpointStats) and isinstance(other, EndpointStats):
        return msgspec.structs.replace(one, age_s=0.0) == msgspec.structs.replace(other, age_s=0.0)
    return one == other
