"""What the admin API shows its views of: the store's values at one moment, and what the process that looks knows beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nebula_core.admin.documents import StoreView
from nebula_core.interfaces import Strategy
from nebula_core.store import keys
from nebula_core.types import (
    EndpointInfo,
    EndpointStats,
    GatewayStatus,
    ModelRequest,
    ModelStatus,
    NodeRequest,
    NodeStatus,
    PlacementPlan,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The store's values. Models by model_uid, replicas by (model_uid, replica_id)."""

    requests: Mapping[str, ModelRequest] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)
    """How many replicas each request comes to."""
    plans: Mapping[str, PlacementPlan] = field(default_factory=dict)
    statuses: Mapping[str, ModelStatus] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], EndpointInfo] = field(default_factory=dict)
    stats: Mapping[tuple[str, str], EndpointStats] = field(default_factory=dict)
    nodes: Mapping[str, NodeStatus] = field(default_factory=dict)
    """Those that are up."""
    node_requests: Mapping[str, NodeRequest] = field(default_factory=dict)
    """What operators ask of nodes, of missing ones too."""
    lease_s: float = 30.0
    """So long a node that is missing has not been heard of, at the least."""
    gateways: Sequence[GatewayStatus] = ()
    scheduler: str | None = None
    scheduler_problem: str = ""
    store: StoreView
    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    """Every strategy that is installed in the process that looks; for what they say of themselves."""
    strategy: str = ""
    """The one for models that name none."""
    fallback: str = ""
    """The one that decides where another cannot."""
    secrets: frozenset[str] = frozenset()
    """Texts that are shown nowhere."""

    def knows(self, prefix: str) -> bool:
        """Whether what lies there was ever read: if not, nothing follows from there being none."""
        return prefix not in self.store.never_read

    def is_missing(self, node_id: str) -> bool:
        """Whether a node is known not to be heard of."""
        return node_id not in self.nodes and self.knows(keys.NODES)
