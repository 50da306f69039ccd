"""What a benchmark has found, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class StoreFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet's heartbeats, and what they cost."""

    nodes: int
    engines: int
    """Per node."""
    seconds: float
    heartbeats: int
    transactions: int
    keys: int
    bytes: int
    """Keys and values that nodes wrote."""
    refused: int
    """Transactions whose conditions did not hold."""
    revisions: int
    database_bytes: int
    """By how much etcd's file has grown."""
    delays_s: tuple[float, ...]
    """From a node's write to a worker's candidate, of every sample."""

    def summary(self) -> dict[str, float]:
        """What is worth telling, by name."""
        return {
            "nodes": self.nodes,
            "engines_per_node": self.engines,
            "seconds": round(self.seconds, 1),
            "transactions_per_node_and_heartbeat": round(self.transactions / max(1, self.heartbeats), 3),
            "transactions_per_s": round(self.transactions / self.seconds, 2),
            "transactions_refused": self.refused,
            "keys_per_s": round(self.keys / self.seconds, 1),
            "bytes_per_s": round(self.bytes / self.seconds),
            "revisions_per_s": round(self.revisions / self.seconds, 2),
            "database_growth_mib_per_hour": round(self.database_bytes / self.seconds * 3600 / 2**20, 1),
            "samples": len(self.delays_s),
            "write_to_candidate_p50_ms": round(quantile(self.delays_s, 0.5) * 1000, 2),
            "write_to_candidate_p99_ms": round(quantile(self.delays_s, 0.99) * 1000, 2),
            "write_to_candidate_max_ms": round(max(self.delays_s, default=0.0) * 1000, 2),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0-1) of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def lines(summary: dict[str, float]) -> str:
    """A figure per line."""
    return "\n".join(f"{name.replace('_', ' '):<38}{value:>12g}" for name, value in summary.items())
