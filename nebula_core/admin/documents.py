"""The documents that the admin API answers with, as `/docs` describes them. Fields are only ever added."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from nebula_core.drafts import Change


class Document(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


class ReplicaStatus(Document):
    """One replica of a model."""

    replica_id: str
    node_id: str
    state: str
    """`placed` (not begun yet), `starting`, `ready`, `abnormal` (its node is missing), `unhealthy` or `draining`."""
    reason: str
    """Why it is not ready, in words."""
    routed: bool = False
    """Whether new requests go to it: it is ready, or was when its node was last heard of."""
    replaces: str = ""
    """The `replica_id` that serves on until this one is ready; empty: none."""
    replaced_by: str = ""
    """The `replica_id` that takes its place once that one is ready; empty: none."""
    url: str
    incarnation: int
    assignment_version: str
    gpu_indexes: tuple[int, ...] = ()
    stats: dict[str, Any] | None = None


class ModelView(Document):
    """A model: what is asked for and how far it is."""

    model_uid: str
    engine: str
    aliases: tuple[str, ...] = ()
    state: str
    """`ready`, `degraded` (some replicas), `starting`, `failed`, `unplaced`, `stopped` (none wanted) or `unloading`."""
    wanted: int
    ready: int
    reasons: tuple[str, ...] = ()
    """Why replicas are missing, in words."""
    strategy: str = ""
    """Routing strategy: its own, or that of the answering process's `[router]`."""
    routing: str = ""
    """What keeps the strategy from deciding, and who decides instead; empty: nothing does."""
    scaling: str = ""
    """How many replicas load asks for within which bounds, who says so and why, and the last change; empty: load does not decide."""
    scaling_inputs: dict[str, float | None] = {}
    """What that was decided by; `null`: not known."""
    replicas: tuple[ReplicaStatus, ...] = ()
    request: dict[str, Any] | None = None
    """The request as it was written, secrets masked; `null` while it is being unloaded."""


class GpuView(Document):
    """One GPU of a node."""

    index: int
    uuid: str = ""
    name: str = ""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    temperature_celsius: float | None = None
    utilization: float | None = None
    power_watts: float | None = None
    ecc_errors: int | None = None
    processes: tuple[dict[str, int | None], ...] | None = None


class MachineView(Document):
    """The processors and the memory of a node."""

    cpus: int | None = None
    cpu_utilization: float | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None


class AssignedReplica(Document):
    """A replica that a node has, or has not yet got rid of."""

    model_uid: str
    replica_id: str
    state: str
    """As in `ReplicaStatus`; `running` if an engine runs there that no plan names."""
    reason: str = ""
    """Why it is not ready; on a node that is being drained, what keeps it there."""


class NodeView(Document):
    """A node that is heard of, or that plans or operators name."""

    node_id: str
    up: bool
    """If not, it is missing: it has not been heard of for the time of a lease, `[store] lease_s`."""
    cordoned: bool = False
    """It gets nothing new."""
    drained: bool = False
    """Its replicas move to other nodes, as far as there is room."""
    given_up: bool = False
    """It is not expected back."""
    address: str = ""
    hostname: str = ""
    version: str = ""
    engines: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    machine: MachineView = MachineView()
    gpus: tuple[GpuView, ...] = ()
    replicas: tuple[str, ...] = ()
    """Whose engines run there, `model_uid/replica_id` each."""
    assigned: tuple[AssignedReplica, ...] = ()
    """What plans have there, and what still runs beside that: a drained node is empty when there is nothing."""


class GatewayView(Document):
    """A gateway that is heard of."""

    gateway_id: str
    address: str
    applied_revision: int
    demand: dict[str, int]
    draining: dict[str, int]


class StoreView(Document):
    """The store as this process sees it."""

    kind: str
    connected: bool
    """If not, all that is shown is the last that was known."""
    silent_since: float | None = None
    """Since when it does not answer, in Unix seconds."""
    read_at: float | None = None
    """When this process last read what it does not follow, in Unix seconds; `null`: it follows everything, or never did."""
    never_read: tuple[str, ...] = ()
    """Parts of the store of which this process knows nothing, as it never read them."""


class Status(Document):
    """Everything at a glance."""

    models: tuple[ModelView, ...]
    nodes: tuple[NodeView, ...]
    gateways: tuple[GatewayView, ...]
    scheduler: str | None
    """Who leads, or `null`."""
    scheduler_problem: str = ""
    """What keeps any scheduler from leading, and the way out."""
    store: StoreView


class Models(Document):
    """All models."""

    models: tuple[ModelView, ...]


class Nodes(Document):
    """All nodes."""

    nodes: tuple[NodeView, ...]


class ModelChange(Document):
    """What became of a model request."""

    model_uid: str
    change: Change


class Changes(Document):
    """What became of several model requests."""

    models: tuple[ModelChange, ...]


class CandidateView(Document):
    """A replica as it looked to a strategy when that decided."""

    replica_id: str
    figures: dict[str, float]
    """What it was weighed by; a name ends with its unit (`wait_s`, `cached_bytes`), or it is a number."""


class DecisionView(Document):
    """One decision on a request: which replica it was sent to, and why."""

    model_uid: str
    strategy: str
    ago_s: float
    """Seconds since then."""
    picked: str
    """The `replica_id` that was chosen."""
    reason: str
    why: str
    """The reason in words."""
    figures: dict[str, float]
    """What was known of the request, named as those of candidates."""
    candidates: tuple[CandidateView, ...]
    """The best first."""


class Decisions(Document):
    """All decisions on a request that are still known, the first one first: a retry is a decision of its own."""

    request_id: str
    decisions: tuple[DecisionView, ...]
    silent_workers: int = 0
    """Gateway workers that did not answer in time, and may know more."""


class PluginView(Document):
    """An installed plugin."""

    name: str
    distribution: str
    version: str
    enabled: bool
    note: str
    provides: tuple[str, ...]


class PluginList(Document):
    """All installed plugins."""

    plugins: tuple[PluginView, ...]
