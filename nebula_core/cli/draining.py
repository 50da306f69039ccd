"""Waiting until nodes that are drained are empty."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from nebula_core.cli.nodes_view import replica_lines
from nebula_core.errors import AdminError

if TYPE_CHECKING:
    from nebula_core.admin.client import AdminClient
    from nebula_core.roles import Progress

PERIOD_S: Final = 0.5
Document = Mapping[str, Any]


def until_empty(client: AdminClient, names: Sequence[str], timeout_s: float | None, progress: Progress) -> list[Any]:
    """Wait until nothing on these nodes is left to move, and return them. Raises `AdminError` if that takes too long or is called off."""
    began = time.monotonic()
    while True:
        nodes = [node for node in client.nodes() if node["node_id"] in names]
        for node in nodes:
            progress.model(node["node_id"], _state(node), "\n".join(replica_lines(node["assigned"])))
        if not any(map(_has_more, nodes)):
            return nodes
        if called_off := next((node["node_id"] for node in nodes if not node["drained"]), None):
            raise AdminError(f'the node "{called_off}" is to be emptied no more: somebody has uncordoned it')
        if timeout_s is not None and time.monotonic() - began >= timeout_s:
            raise AdminError(_late(nodes, timeout_s))
        time.sleep(PERIOD_S)


def outcome(nodes: Sequence[Document]) -> str:
    """What became of nodes of which nothing is left to move."""
    empty = ", ".join(node["node_id"] for node in nodes if not node["assigned"])
    missing = ", ".join(node["node_id"] for node in nodes if node["assigned"])
    told = [empty and f"empty: {empty}", missing and f"missing, and what is left there ends when it is back: {missing}"]
    return "\n".join(filter(None, told))


def _has_more(node: Document) -> bool:
    """Whether there is something left to wait for: what drains on a node that is missing ends when that is back, if ever."""
    return any(node["up"] or replica["state"] != "draining" for replica in node["assigned"])


def _state(node: Document) -> str:
    if not node["assigned"]:
        return "empty"
    return "draining" if node["up"] else "missing"


def _late(nodes: Sequence[Document], timeout_s: float) -> str:
    left = [f"{node['node_id']}: {line}" for node in nodes for line in replica_lines(node["assigned"])]
    return "\n".join([f"not empty after {timeout_s:g} s", *left, "They stay drained; `nebula nodes uncordon` takes that back."])
