"""What the admin API says when it cannot do what was asked: the envelope that OpenAI's API uses, with the right status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nebula_core.errors import (
    InvalidModelRequest,
    InvalidNodeRequest,
    NebulaError,
    StoreUnavailable,
    UnknownModel,
    UnknownNode,
    WriteConflict,
)

_STATUS: Mapping[type[NebulaError], tuple[HTTPStatus, str]] = {
    InvalidModelRequest: (HTTPStatus.BAD_REQUEST, "invalid_model_request"),
    UnknownModel: (HTTPStatus.NOT_FOUND, "model_not_found"),
    InvalidNodeRequest: (HTTPStatus.BAD_REQUEST, "invalid_node_request"),
    UnknownNode: (HTTPStatus.NOT_FOUND, "node_not_found"),
    WriteConflict: (HTTPStatus.CONFLICT, "conflict"),
    StoreUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
}


class Fault(BaseModel):
    """What is wrong and what to do about it."""

    message: str
    type: str
    code: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: Fault


def refusal(status: HTTPStatus, message: str, code: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that says no."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    body = ErrorAnswer(error=Fault(message=message, type=kind, code=code))
    return JSONResponse(body.model_dump(), status, headers)


def add_handlers(app: FastAPI) -> None:
    """Answer every error in the envelope."""
    app.add_exception_handler(NebulaError, _nebula_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


async def _nebula_error(_: Request, error: Exception) -> JSONResponse:
    known = next((status for type_, status in _STATUS.items() if isinstance(error, type_)), None)
    status, code = known or (HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error")
    return refusal(status, str(error), code, {"retry-after": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
    return refusal(HTTPStatus.BAD_REQUEST, "; ".join(faults), "invalid_body")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    message = f"{request.method} {request.url.path}: {error.detail}; /docs shows what there is"
    return refusal(status, message, status.name.lower(), error.headers)


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    """The server logs it with its traceback."""
    return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed by a fault of Nebula; its log says more", "internal_error")
