"""What a strategy is asked, what it answers, and what it hears of what came of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from nebula_core.router.blocks import PrefixBlocks
from nebula_core.router.prefix import hash_prefix

if TYPE_CHECKING:
    from nebula_core.router.candidate import Candidate


class RouteRequest(msgspec.Struct):
    """What a strategy may know of a request."""

    request_id: str
    model_uid: str
    path: str
    body: bytes
    """The request's body as the client sent it."""
    prefix_blocks: PrefixBlocks | None = None
    """What `blocks` has found; a trace, which has no body, supplies it."""

    def blocks(self, seed: int = 0) -> PrefixBlocks:
        """The prompt's prefix as a chain of hashes, computed when first asked for."""
        if self.prefix_blocks is None:
            self.prefix_blocks = hash_prefix(self.path, self.body, seed)
        return self.prefix_blocks


class Pick(msgspec.Struct, frozen=True):
    """A strategy's choice. `reason` is a short constant for counters and logs, such as `least_pending` or `prefix_hit`."""

    candidate: Candidate
    reason: str


class Lost(msgspec.Struct, frozen=True):
    """A replica that refused or dropped a connection, for the other workers to know."""

    model_uid: str
    replica_id: str
    incarnation: int


class RouteEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step in the life of a request on a replica, or the end of the replica (`gone`, without a request).

    Plain data: what another worker or gateway saw is observed in the same way.
    """

    kind: Literal["charged", "first_token", "finished", "failed", "gone"]
    model_uid: str
    replica_id: str
    incarnation: int
    request_id: str = ""
    at: float
    """Monotonic seconds of the gateway that saw it."""
    prefix_blocks: PrefixBlocks | None = None
    """With `charged`: the request's prefix, if the strategy that decided asked for it."""
    whole: bool = False
    """With `finished`: the answer came all at once, so that this tells of its first token too."""
