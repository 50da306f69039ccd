"""Where things lie in the store. A `model_uid` may hold slashes and is encoded, so that it is one part of a key."""

from __future__ import annotations

from urllib.parse import quote, unquote

MODEL_REQUESTS = "/model_requests/"
PLACEMENTS = "/placements/"
STATUS = "/status/"
NODES = "/nodes/"
NODE_REQUESTS = "/node_requests/"
ENDPOINTS = "/endpoints/"
STATS = "/stats/"
GATEWAYS = "/gateways/"
SEEDS = "/seeds/"
SCHEDULER_LEADER = "/leader/scheduler"


def model_request(model_uid: str) -> str:
    """Desired state of a model: a `ModelRequest`."""
    return MODEL_REQUESTS + encode(model_uid)


def placement(model_uid: str) -> str:
    """The plan of a model: a `PlacementPlan`."""
    return PLACEMENTS + encode(model_uid)


def status(model_uid: str) -> str:
    """The scheduler's last decisions: a `ModelStatus`."""
    return STATUS + encode(model_uid)


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


def encode(name: str) -> str:
    """A name as one part of a key."""
    return quote(name, safe="")
