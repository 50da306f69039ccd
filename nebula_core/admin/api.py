"""The admin API: its routes, and the app that they are put together in."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, FastAPI, Response
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field

from nebula_core import desired
from nebula_core.admin import decisions, status
from nebula_core.admin.answers import ErrorAnswer, add_handlers, refusal
from nebula_core.admin.documents import Changes, Decisions, ModelChange, Models, ModelView, PluginList, PluginView, Status
from nebula_core.admin.exports import add_exporters
from nebula_core.admin.node_routes import node_routes
from nebula_core.admin.security import ANYBODY, ASSETS, WITHOUT_TOKEN, Security
from nebula_core.admin.view import View
from nebula_core.errors import InvalidModelRequest, PluginError
from nebula_core.masks import MASK, mask, secrets_in
from nebula_core.plugins import Plugins, way_out
from nebula_core.store import keys

EXAMPLE = {"engine": "llamacpp", "source": "smollm2", "replicas": 1}
Table = dict[str, Any]
"""The keys of a `[[models]]` table; the engine's own among them."""
_FAULTS: dict[int | str, dict[str, Any]] = {
    int(code): {"model": ErrorAnswer} for code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)
}


class Numbers(BaseModel):
    """What to change of a model's numbers; a bound that is `null` is lifted."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(0, ge=0, le=desired.MAX_REPLICAS)
    min_replicas: int | None = Field(None, ge=0, le=desired.MAX_REPLICAS)
    max_replicas: int | None = Field(None, ge=0, le=desired.MAX_REPLICAS)


class Declared(BaseModel):
    """`[[models]]` tables."""

    model_config = ConfigDict(extra="forbid")

    models: list[Table] = Field(examples=[[{"model_uid": "smollm2", **EXAMPLE}]])


def make_app(view: View, token: str) -> FastAPI:
    """The admin API with the plugins' routes and pages. Raises `PluginError` if a plugin fails to add its own."""
    app = FastAPIOffline(
        title="Nebula",
        version=version("nebula-serving"),
        redoc_url=None,
        static_url=ASSETS,
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.include_router(_reading(view))
    app.include_router(_writing(view))
    app.include_router(node_routes(view, _router()))
    add_handlers(app)

    @app.get(ANYBODY, summary="Whether this process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    add_exporters(app, view.exporters, view.snapshot, taken=[ANYBODY, *WITHOUT_TOKEN], reserved=("/admin/", ASSETS))
    _add_plugin_routes(app, view.plugins)
    app.add_middleware(
        Security,
        token=token,
        hosts=(view.settings.admin.host, *view.settings.admin.allowed_hosts),
        open_paths=[ANYBODY, *(exporter.path for exporter in view.exporters.values())],
    )
    return app


def _router() -> APIRouter:
    bearer = HTTPBearer(auto_error=False, scheme_name="token", description="The text of the file admin.token in Nebula's data folder.")
    return APIRouter(prefix="/admin/v1", dependencies=[Depends(bearer)], responses=_FAULTS)


def _reading(view: View) -> APIRouter:
    router = _router()

    @router.get("/status", summary="Models, replicas, nodes and gateways at a glance, and why something is not ready")
    async def get_status() -> Status:
        return status.status(await view.look_back())

    @router.get("/models", summary="All models")
    async def get_models() -> Models:
        return Models(models=status.status(await view.look()).models)

    @router.get("/models/{model_uid:path}", summary="One model")
    async def get_model(model_uid: str) -> ModelView:
        return status.model(await view.look_for(model_uid), model_uid)

    @router.get("/decisions/{request_id:path}", response_model=Decisions, summary="Why a request was sent where it was sent")
    async def get_decisions(request_id: str) -> Decisions | Response:
        found = await decisions.known(view, request_id)
        if found is None or not found.decisions:
            return refusal(HTTPStatus.NOT_FOUND, decisions.why_none(view, request_id, found), "decision_not_found")
        return found

    @router.get("/plugins", summary="Installed plugins")
    async def get_plugins() -> PluginList:
        return PluginList(plugins=tuple(PluginView(**asdict(info)) for info in view.plugins.infos))

    @router.get("/settings", summary="The settings in force, secrets masked")
    async def get_settings() -> dict[str, Any]:
        settings = view.settings
        masked: dict[str, Any] = mask(settings.model_dump(mode="json"), secrets_in(settings.files))
        return masked

    @router.get("/metrics/snapshot", summary="Every metric of this process and its gateway workers now")
    async def get_metrics() -> Response:
        return Response(msgspec.json.encode({"families": view.snapshot()}), media_type="application/json")

    return router


def _writing(view: View) -> APIRouter:
    router = _router()

    @router.put("/models/{model_uid:path}", summary="Load a model, or replace what is asked of it")
    async def put_model(model_uid: str, table: Annotated[Table, Body(examples=[EXAMPLE])], response: Response) -> ModelChange:
        if table.get("model_uid", model_uid) != model_uid:
            raise InvalidModelRequest(f'the path names the model "{model_uid}", the body "{table["model_uid"]}"')
        (changed,) = await _apply(view, [{**table, "model_uid": model_uid}])
        response.status_code = HTTPStatus.CREATED if changed.change == "created" else HTTPStatus.OK
        return changed

    @router.patch("/models/{model_uid:path}", summary="Scale a model")
    async def patch_model(model_uid: str, numbers: Numbers) -> ModelView:
        given = numbers.model_dump(exclude_unset=True)
        if not given:
            raise InvalidModelRequest("the body names nothing to change: replicas, min_replicas or max_replicas")
        await desired.scale(view.store, view.engines, model_uid, given)
        await view.caught_up(keys.model_request(model_uid))
        return status.model(await view.look_for(model_uid), model_uid)

    @router.post("/models/{model_uid:path}/rollback", summary="Ask for what was asked of a model before its last change of arguments")
    async def roll_model_back(model_uid: str) -> ModelView:
        await desired.rollback(view.store, view.engines, model_uid)
        await view.caught_up(keys.model_request(model_uid))
        return status.model(await view.look_for(model_uid), model_uid)

    @router.delete("/models/{model_uid:path}", summary="Unload a model: its running requests finish, then its replicas stop")
    async def delete_model(model_uid: str) -> dict[str, str]:
        await desired.unload(view.store, model_uid)
        await view.caught_up(keys.model_request(model_uid))
        return {"model_uid": model_uid, "change": "deleted"}

    @router.post("/apply", summary="Load or replace several models, all or none")
    async def apply(declared: Declared) -> Changes:
        return Changes(models=tuple(await _apply(view, declared.models)))

    return router


async def _apply(view: View, tables: list[Table]) -> list[ModelChange]:
    for table in tables:
        if masked := [key for key, value in table.items() if value == MASK]:
            raise InvalidModelRequest(f'the model "{table.get("model_uid", "")}": {masked[0]} is a masked secret; send the secret itself')
    requests = [desired.to_request(desired.parse(table), view.engines) for table in tables]
    changes = await desired.apply(view.store, requests, view.clock())
    for model_uid in changes:
        await view.caught_up(keys.model_request(model_uid))
    return [ModelChange(model_uid=uid, change=change) for uid, change in changes.items()]


def _add_plugin_routes(app: FastAPI, plugins: Plugins) -> None:
    for implementation in plugins.hook.nebula_add_routes.get_hookimpls():
        try:
            implementation.function(**dict.fromkeys(implementation.argnames, app))
        except Exception as error:
            name = implementation.plugin_name
            raise PluginError(f'the plugin "{name}" failed to add its routes: {error}; {way_out(name)}') from error
