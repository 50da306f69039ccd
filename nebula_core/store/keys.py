"""Where things lie in the store. A `model_uid` may hold slashes and is encoded, so that it is one part of a key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar
from urllib.parse import quote, unquote

V = TypeVar("V")

KNOWN_KEYS = 50_000
"""Keys whose parts are remembered: a large fleet's are read with every pass of its scheduler, and taking them apart costs most of it."""

MODEL_REQUESTS = "/model_requests/"
EARLIER_REQUESTS = "/earlier_requests/"
NODE_REQUESTS = "/node_requests/"
PLACEMENTS = "/placements/"
STATUS = "/status/"
NODES = "/nodes/"
ENDPOINTS = "/endpoints/"
STATS = "/stats/"
GATEWAYS = "/gateways/"
SEEDS = "/seeds/"
SCHEDULER_LEADER = "/leader/scheduler"


def model_request(model_uid: str) -> str:
    """Desired state of a model: a `ModelRequest`."""
    return MODEL_REQUESTS + encode(model_uid)


def earlier_request(model_uid: str) -> str:
    """What was asked of a model before its last change, for a rollback: a `ModelRequest`."""
    return EARLIER_REQUESTS + encode(model_uid)


def placement(model_uid: str) -> str:
    """The plan of a model: a `PlacementPlan`."""
    return PLACEMENTS + encode(model_uid)


def status(model_uid: str) -> str:
    """The scheduler's last decisions: a `ModelStatus`."""
    return STATUS + encode(model_uid)


def node_request(node_id: str) -> str:
    """What an operator asks of a node: a `NodeRequest`."""
    return NODE_REQUESTS + encode(node_id)


def node(node_id: str) -> str:
    """A node's heartbeat, leased: a `NodeStatus`."""
    return NODES + encode(node_id)


def endpoint(model_uid: str, replica_id: str) -> str:
    """Address and state of a replica: an `EndpointInfo`."""
    return f"{ENDPOINTS}{encode(model_uid)}/{encode(replica_id)}"


def stats(model_uid: str, replica_id: str) -> str:
    """An engine's signals: an `EndpointStats`."""
    return f"{STATS}{encode(model_uid)}/{encode(replica_id)}"


def gateway(gateway_id: str) -> str:
    """A gateway's heartbeat, leased: a `GatewayStatus`."""
    return GATEWAYS + encode(gateway_id)


def seed(host: str) -> str:
    """What the settings file of a host last asked for: a `Seed`."""
    return SEEDS + encode(host)


def parts(key: str) -> list[str]:
    """The parts of a key, decoded: `/endpoints/Qwen%2FQwen3-8B/0` → `["endpoints", "Qwen/Qwen3-8B", "0"]`."""
    return [unquote(part) for part in key.strip("/").split("/")]


@lru_cache(KNOWN_KEYS)
def model_of(key: str) -> str | None:
    """The model_uid in a key of a model or of a replica; `None` for a key of another shape, as a newer Nebula may write."""
    match parts(key):
        case [_, uid] if key in (model_request(uid), placement(uid), status(uid)):
            return uid
    replica = replica_of(key)
    return None if replica is None else replica[0]


@lru_cache(KNOWN_KEYS)
def replica_of(key: str) -> tuple[str, str] | None:
    """`(model_uid, replica_id)` in the key of an endpoint or of stats; `None` for a key of another shape."""
    match parts(key):
        case [_, uid, replica_id] if uid and key in (endpoint(uid, replica_id), stats(uid, replica_id)):
            return uid, replica_id
    return None


@lru_cache(KNOWN_KEYS)
def node_of(key: str) -> str | None:
    """The node_id in a key of a node; `None` for a key of another shape."""
    match parts(key):
        case [_, node_id] if node_id and key in (node(node_id), node_request(node_id)):
            return node_id
    return None


def by_model(values: Mapping[str, V]) -> dict[str, V]:
    """Values by model_uid instead of by key, without those whose key is of another shape."""
    return {uid: value for key, value in values.items() if (uid := model_of(key)) is not None}


def by_node(values: Mapping[str, V]) -> dict[str, V]:
    """Values by node_id instead of by key, without those whose key is of another shape."""
    return {node_id: value for key, value in values.items() if (node_id := node_of(key)) is not None}


def by_replica(values: Mapping[str, V]) -> dict[tuple[str, str], V]:
    """Values by `(model_uid, replica_id)` instead of by key, without those whose key is of another shape."""
    return {replica: value for key, value in values.items() if (replica := replica_of(key)) is not None}


def encode(name: str) -> str:
    """A name as one part of a key. What stands for bytes that are no text, as in a stranger's key, comes out as another name."""
    return quote(name, safe="", errors="surrogateescape")
