"""`GET /v1/models` and `GET /v1/models/{id}`: the routing table in OpenAI's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from nebula_core.gateway.data_path.answers import Answer, json_answer
from nebula_core.gateway.data_path.errors import unknown_model

if TYPE_CHECKING:
    from nebula_core.router.table import Model, RoutingTable

PREFIX = b"/v1/models/"


def list_models(table: RoutingTable) -> Answer:
    """Every model, also those without a replica at the moment, and their aliases."""
    names = dict(table.models)
    names |= {alias: model for model in table.models.values() for alias in model.aliases if alias not in names}
    return json_answer(200, {"object": "list", "data": [_entry(name, names[name]) for name in sorted(names)]})


def one_model(table: RoutingTable, path: bytes) -> Answer:
    """The model whose name is the rest of `path`; it may hold slashes, as they are or percent-encoded."""
    name = unquote_to_bytes(path.removeprefix(PREFIX)).decode(errors="replace")
    model = table.find(name)
    return unknown_model(name, table.models) if model is None else json_answer(200, _entry(name, model))


def _entry(name: str, model: Model) -> dict[str, object]:
    return {"id": name, "object": "model", "created": model.created, "owned_by": "nebula"}
