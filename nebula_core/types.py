"""The plain data that crosses boundaries: what lies in the store, and what loops and plugins hand to each other.

All are frozen `msgspec` structs, so that they encode to JSON without code of ours. Times are seconds, sizes are bytes, ratios
are 0–1. An unknown signal is `None`, never 0. States are plain strings: one that a newer Nebula wrote and this one does not know
counts as "not ready".
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

STARTING: Final = "starting"
READY: Final = "ready"
UNHEALTHY: Final = "unhealthy"
DRAINING: Final = "draining"

RUN: Final = "run"
DRAIN: Final = "drain"


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of everything kept in the store."""


class ModelRequest(Value, frozen=True, kw_only=True):
    """Desired state of a model, written by an operator (`/model_requests/{model}`)."""

    model_uid: str
    """What clients ask for by name; may hold slashes (`Qwen/Qwen3-8B`)."""
    engine: str
    """Name of the engine provider that runs it."""
    aliases: tuple[str, ...] = ()
    """Other names that clients may use."""
    source: str | None = None
    """What the engine loads: a path, a bundled model's name, a hub id; the engine says which."""
    replicas: int = 1
    """How many shall run; with `max_replicas`, how many to begin with."""
    replicas_set: int = 0
    """Grows when an operator sets `replicas` at run time: the same number once more counts, too, for load may have changed it since."""
    min_replicas: int | None = None
    """The fewest that load may leave; `None`: one."""
    max_replicas: int | None = None
    """The most that load may ask for; `None`: load changes nothing."""
    scaler: str | None = None
    """Scaling policy for this model; `None` takes `[scheduler] scaler`."""
    first_token_target_s: float | None = None
    """Time to the first token that 99 of 100 requests are to stay below, for policies that go by it; `None`: the policy's own."""
    gpus_per_replica: int = 0
    gpu_memory_bytes: int | None = None
    """Free memory that each of a replica's GPUs must have; `None`: as its last run took, or any if it never ran."""
    node_labels: dict[str, str] = {}
    """Labels that a replica's node must bear."""
    max_per_node: int | None = None
    """So many replicas of this model may be on one node, those that are ending included; `None`: any number."""
    strategy: str | None = None
    """Routing strategy for this model; `None` takes `[router] strategy`."""
    first_byte_timeout_s: float | None = None
    """Longest wait for the first byte of an answer's body; `None` takes `[gateway] first_byte_timeout_s`."""
    engine_args: dict[str, Any] = {}
    """The engine's own keys, validated by the engine."""
    created: int = 0
    """Unix time of the first write, seconds; shown in `/v1/models`."""
    rolled_back_from: str = ""
    """Digest of the arguments that a rollback took back: a settings file that still asks for them is not followed. Empty: none did."""


class ReplicaSpec(Value, frozen=True, kw_only=True):
    """What one replica is: all that a node needs to launch it. Two equal specs are interchangeable."""

    model_uid: str
    engine: str
    source: str | None = None
    served_names: tuple[str, ...] = ()
    """Names the engine accepts in a request's `model`, the first its own; empty: any name."""
    gpus: int = 0
    engine_args: dict[str, Any] = {}

    def version(self, node_id: str, gpu_indexes: tuple[int, ...]) -> str:
        """The `assignment_version` of this spec on these GPUs: a digest that changes only when one of them does."""
        text = msgspec.json.encode((self, node_id, gpu_indexes), order="deterministic")
        return hashlib.blake2b(text, digest_size=8).hexdigest()


class Assignment(Value, frozen=True, kw_only=True):
    """One replica on one node and its GPUs."""

    replica_id: str
    node_id: str
    spec: ReplicaSpec
    assignment_version: str
    gpu_indexes: tuple[int, ...] = ()
    wanted: str = RUN
    replaces: str = ""
    """The replica that serves on until this one is ready; empty: none."""


class PlacementPlan(Value, frozen=True, kw_only=True):
    """Where a model's replicas belong (`/placements/{model}`); only the leading scheduler writes it."""

    model_uid: str
    plan_version: int
    """Grows with every write of this plan."""
    assignments: tuple[Assignment, ...] = ()


class GpuMemoryPeak(Value, frozen=True, kw_only=True):
    """The most memory that any GPU of a model's replicas was seen to have in use, since they were last changed."""

    spec: str
    """Digest of the spec that ran: another one has another need."""
    used_bytes: int
    total_bytes: int
    """Memory of that GPU."""


class Scaling(Value, frozen=True, kw_only=True):
    """How many replicas load asks for, why, and what is remembered for the next look: a new leader goes on from it.

    Times are seconds of the model's own clock, which goes on for as long as a scheduler leads; clocks of hosts are not compared.
    """

    at: float = 0.0
    """When it was last looked at."""
    replicas: int
    """How many there are to be."""
    policy: str = ""
    """Who proposes; empty: nobody, and `reason` says why."""
    proposed: int | None = None
    """What the policy proposed, before bounds, steps and cooldowns; `None`: it could not tell."""
    reason: str = ""
    """Why there are to be so many, in words for an operator."""
    inputs: dict[str, float | None] = {}
    """What that was decided by; `None`: not known."""
    changed_at: float | None = None
    """When the number last changed; `None`: never."""
    changed_from: int | None = None
    changed_why: str = ""
    grown_at: float | None = None
    """When it last grew."""
    asked: tuple[int, int | None, int | None, int] | None = None
    """`replicas`, `min_replicas`, `max_replicas` and `replicas_set` of the request that it last went by."""
    boot_s: float | None = None
    """Time that a replica takes from being placed to being ready, as learned; `None`: not known yet."""
    booting: dict[str, float] = {}
    """When each replica that is not ready yet was first seen, by replica_id and assignment_version."""
    memory: dict[str, Any] = {}
    """The policy's own."""


class ModelStatus(Value, frozen=True, kw_only=True):
    """The scheduler's last decisions about a model and why (`/status/{model}`)."""

    model_uid: str
    wanted: int = 0
    placed: int = 0
    reasons: tuple[str, ...] = ()
    """Why replicas are missing, in words for an operator; empty when all are placed."""
    gpu_memory_peak: GpuMemoryPeak | None = None
    """What placement goes by where the request declares no `gpu_memory_bytes`; `None`: nothing was learned yet."""
    scaling: Scaling | None = None
    """What load asks for; `None`: the request has no bounds to scale within."""


class NodeRequest(Value, frozen=True, kw_only=True):
    """What an operator asks of a node (`/node_requests/{node}`); one without gets replicas and keeps them."""

    node_id: str
    cordoned: bool = False
    """It gets nothing new."""
    drained: bool = False
    """Its replicas move to other nodes, as far as there is room."""
    given_up: bool = False
    """If it is gone, it will not come back: its replicas are replaced at once, however many nodes are gone with it."""


class GpuProcess(Value, frozen=True, kw_only=True):
    """A process that computes on a GPU."""

    pid: int
    """As the machine counts, whatever container it runs in."""
    memory_bytes: int | None = None


class GpuStatus(Value, frozen=True, kw_only=True):
    """One GPU of a node, as last read; or a part of one that is given away on its own."""

    index: int
    """What plans and metrics name it by, unique on its node."""
    uuid: str = ""
    name: str = ""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    temperature_celsius: float | None = None
    utilization: float | None = None
    """Share of time in which it computed, 0–1."""
    power_watts: float | None = None
    ecc_errors: int | None = None
    """Memory errors that could not be corrected, since the driver was loaded."""
    processes: tuple[GpuProcess, ...] | None = None
    """What computes on it, by pid."""


class MachineStatus(Value, frozen=True, kw_only=True):
    """The processors and the memory of a node."""

    cpus: int | None = None
    """Logical processors that the node may use."""
    cpu_utilization: float | None = None
    """Share of time in which all processors computed, 0–1, by whomever."""
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    """What a new process may take without swapping."""


class NodeStatus(Value, frozen=True, kw_only=True):
    """A node's heartbeat (`/nodes/{node}`), under a lease: gone means not heard of for the lease's time."""

    node_id: str
    address: str
    """Host name or address that gateways reach its engines at."""
    hostname: str = ""
    boot_id: str = ""
    version: str = ""
    engines: tuple[str, ...] = ()
    """Engine providers installed there."""
    labels: dict[str, str] = {}
    """What model requests choose it by, such as a zone."""
    machine: MachineStatus = MachineStatus()
    gpus: tuple[GpuStatus, ...] = ()
    replicas: tuple[str, ...] = ()
    """Whose engines run there, `model_uid/replica_id` each."""


class EndpointInfo(Value, frozen=True, kw_only=True):
    """Address and state of a replica (`/endpoints/{model}/{replica}`); only its node writes it."""

    model_uid: str
    replica_id: str
    node_id: str
    assignment_version: str
    incarnation: int
    """Grows with every start of the replica's engine."""
    engine: str
    url: str = ""
    """Base URL without a trailing slash and without `/v1`; empty while not known."""
    state: str = STARTING
    reason: str = ""
    """Why it is not ready, in words for an operator."""
    served_names: tuple[str, ...] = ()
    api_key: str = ""
    """The key the engine asks for; empty: none."""


class EndpointStats(Value, frozen=True, kw_only=True):
    """What a replica's engine says of itself (`/stats/{model}/{replica}`)."""

    pending: float | None = None
    """Requests waiting in the engine's queue."""
    running: float | None = None
    """Requests being computed."""
    kv_cache_usage: float | None = None
    kv_cache_used_bytes: float | None = None
    kv_capacity_tokens: int | None = None
    kv_block_tokens: int | None = None
    prefix_cache_hit_rate: float | None = None
    prompt_tokens_total: float | None = None
    """Prompt tokens processed since the engine's start, cached ones left out."""
    cached_tokens_total: float | None = None
    generated_tokens_total: float | None = None
    age_s: float = 0.0
    """Age of the sample when it was written, by the node's monotonic clock."""
    incarnation: int = 0


class Traffic(Value, frozen=True, kw_only=True):
    """What one gateway has seen of a model's requests over the last half minute or so, by its own clock."""

    arrivals_per_s: float | None = None
    """Requests that came for it, those included that wait or were refused for want of a replica."""
    waiting: int = 0
    """Requests held now because no replica can take them; those refused for that just now are among them: they come again."""
    first_token_s: float | None = None
    """Time to the first token that 99 of 100 stayed below; `None`: too few were answered to say."""


class GatewayStatus(Value, frozen=True, kw_only=True):
    """A gateway's heartbeat (`/gateways/{gateway}`), under a lease."""

    gateway_id: str
    address: str
    applied_revision: int = 0
    """Store revision that all its workers route by: plans up to it are in force there."""
    demand: dict[str, int] = {}
    """Requests in flight or waiting, per model; those refused just now for want of a replica count as waiting."""
    traffic: dict[str, Traffic] | None = None
    """Models with requests lately; what is not in it had none. `None`: not measured."""
    draining: dict[str, int] = {}
    """Requests in flight per draining replica, keyed `model_uid/replica_id`."""
    peers: str = ""
    """`host:port` at which it listens for the other gateways; empty: nowhere."""
    peers_key: str = ""
    """What another gateway must know to be listened to there, in hex; a new one with every start."""


class Seed(Value, frozen=True, kw_only=True):
    """What a settings file last asked for (`/seeds/{host}`), so that only a changed table is applied again."""

    digests: dict[str, str] = {}
    """model_uid → digest of its table."""
