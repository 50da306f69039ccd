"""Waiting until nodes that are drained are empty."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from nebula_core.cli.nodes_view import replica_text
from nebula_core.errors import AdminError

if TYPE_CHECKING:
    from nebula_core.admin.client import AdminClient
    from nebula_core.roles import Progress

PERIOD_S: Final = 0.5
Document = Mapping[str, Any]


def until_empty(client: AdminClient, names: Sequence[str], timeout_s: float | None, progress: Progress) -> list[Any]:
    """Wait until nothing is left on these nodes, and return them. Raises `AdminError` if that takes too long or is called off."""
    began = time.monotonic()
    while True:
        nodes = [node for node in client.nodes() if node["node_id"] in names]
        for node in nodes:
            progress.model(node["node_id"], _state(node), "\n".join(map(replica_text, node["assigned"])))
        if not any(node["assigned"] for node in nodes):
            return nodes
        if called_off := next((node["node_id"] for node in nodes if not node["drained"]), None):
            raise AdminError(f'the node "{called_off}" is to be emptied no more: somebody has uncordoned it')
        if timeout_s is not None and time.monotonic() - began >= timeout_s:
            raise AdminError(_late(nodes, timeout_s))
        time.sleep(PERIOD_S)


def _state(node: Document) -> str:
    return "draining" if node["assigned"] else "empty"


def _late(nodes: Sequence[Document], timeout_s: float) -> str:
    left = [f"{node['node_id']}: {replica_text(replica)}" for node in nodes for replica in node["assigned"]]
    return "\n".join([f"not empty after {timeout_s:g} s", *left, "They stay drained; `nebula nodes uncordon` takes that back."])
