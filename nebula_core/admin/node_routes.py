"""The admin API's routes of nodes."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from nebula_core import node_requests
from nebula_core.admin import status
from nebula_core.admin.documents import Nodes, NodeView, Status
from nebula_core.admin.view import View
from nebula_core.errors import InvalidNodeRequest
from nebula_core.store import keys


class Asked(BaseModel):
    """What is asked of a node."""

    model_config = ConfigDict(extra="forbid")

    cordoned: bool = Field(False, description="It gets nothing new; taking that back takes the others back, too.")
    drained: bool = Field(False, description="Its replicas move to other nodes, as far as there is room; it is cordoned with it.")
    given_up: bool = Field(False, description="It is missing and will not come back: its replicas are replaced at once.")


def node_routes(view: View, router: APIRouter) -> APIRouter:
    """`router` with the routes of nodes."""

    @router.get("/nodes", summary="All nodes, those included that are missing while plans or operators name them")
    async def get_nodes() -> Nodes:
        return Nodes(nodes=status.status(await view.look()).nodes)

    @router.get("/nodes/{node_id:path}", summary="One node")
    async def get_node(node_id: str) -> NodeView:
        return _find(status.status(await view.look_for_node(node_id)), node_id)

    @router.patch("/nodes/{node_id:path}", summary="Cordon, drain or give up a node, or take that back")
    async def patch_node(node_id: str, asked: Asked) -> NodeView:
        changes = asked.model_dump(exclude_unset=True)
        if not changes:
            raise InvalidNodeRequest("the body names nothing to change: cordoned, drained or given_up")
        await view.look_for_node(node_id)
        await node_requests.ask(view.store, node_id, changes)
        await view.caught_up(keys.node_request(node_id))
        return _find(status.status(await view.look()), node_id)

    return router


def _find(seen: Status, node_id: str) -> NodeView:
    """A node as it is shown; one that is missing is known no more once nothing is asked of it and no plan names it."""
    return next((node for node in seen.nodes if node.node_id == node_id), NodeView(node_id=node_id, up=False))
