"""Which requests the gateway answers itself, and how. All other POSTs are for engines, but for those that would manage one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from nebula_core.gateway.data_path.answers import Answer, json_answer
from nebula_core.gateway.data_path.errors import Refused, bad_http, invalid, management, no_such_page, too_large, unavailable, wrong_method
from nebula_core.gateway.data_path.http import Request
from nebula_core.gateway.data_path.models import PREFIX, list_models, one_model

if TYPE_CHECKING:
    from nebula_core.gateway.data_path.services import Services

INFERENCE = {
    f"/v1/{name}".encode(): f"/v1/{name}"
    for name in (
        *("chat/completions", "completions", "embeddings", "responses", "messages", "messages/count_tokens", "rerank", "score"),
        *("audio/speech", "audio/transcriptions", "audio/translations", "images/generations", "images/edits", "moderations"),
    )
}
"""Paths that are known to be POST's, so that another method gets 405 and not 404. Any other path may be POSTed to as well."""

_READ = b"GET, HEAD, OPTIONS"
_WRITE = b"POST, OPTIONS"


MANAGEMENT = (
    *(b"/slots", b"/props", b"/lora-adapters", b"/models/"),  # llama.cpp
    *(b"/v1/load_lora_adapter", b"/v1/unload_lora_adapter", b"/load_lora_adapter", b"/unload_lora_adapter"),  # vLLM, SGLang
    *(b"/sleep", b"/wake_up", b"/pause", b"/resume", b"/reset_", b"/collective_rpc", b"/scale_elastic_ep", b"/init_weight"),  # vLLM
    *(b"/update_weight", b"/start_profile", b"/stop_profile"),  # both
    *(b"/flush_cache", b"/release_memory", b"/set_internal_state", b"/abort_request", b"/configure_logging", b"/freeze_gc"),  # SGLang
    *(b"/slow_down", b"/clear_hicache", b"/destroy_weight", b"/send_weight", b"/get_weight"),  # SGLang
    *(b"/start_expert", b"/stop_expert", b"/dump_expert"),  # SGLang
)
"""Starts of paths by which operators manage an engine. They are not for whoever may ask for a completion."""
_NOT_RELAYED = (b"/v1/models", b"/health", b"/ready", *MANAGEMENT)


def is_management(path: bytes) -> bool:
    """Whether the path would change the engine rather than ask it for something."""
    return path.startswith(MANAGEMENT)


def is_own(path: bytes) -> bool:
    """Whether the gateway answers this path itself, whatever the method."""
    return path in (b"/health", b"/ready", b"/v1/models") or path.startswith(PREFIX)


def is_relayed(request: Request) -> bool:
    """Whether the request is for an engine."""
    if request.method != b"POST":
        return False
    return request.known_path != "" or not (request.target.startswith(_NOT_RELAYED) and _stays(request.path))


def _stays(path: bytes) -> bool:
    return is_own(path) or is_management(path)


def own_answer(services: Services, request: Request) -> Answer:
    """The answer to a request that is not for an engine."""
    path = request.path
    own = is_own(path)
    if request.method == b"POST" and is_management(path):
        return management(path)
    if request.method == b"OPTIONS":
        return services.cors.preflight(request, _READ if own else _WRITE)
    if own:
        return _page(services, path) if request.method in (b"GET", b"HEAD") else wrong_method(request.method, path, _READ)
    if request.method in (b"GET", b"HEAD") and path not in INFERENCE:
        return no_such_page(request.method, path)
    return wrong_method(request.method, path, _WRITE)


def _page(services: Services, path: bytes) -> Answer:
    if path == b"/health":
        return json_answer(200, {"status": "ok"})
    if path == b"/ready":
        return _readiness(services)
    table = services.router.table
    return list_models(table) if path == b"/v1/models" else one_model(table, path)


def _readiness(services: Services) -> Answer:
    if services.draining:
        return unavailable("This gateway worker is stopping. Use another.", code="draining")
    if not services.router.table.applied:
        return unavailable("This gateway worker has no routing table yet. Try again in a moment.", code="starting")
    return json_answer(200, {"status": "ready"})


def check(request: Request, max_body_bytes: int) -> None:
    """Look at a request's head before its body is read. Raises `Refused`."""
    fields, target = request.fields, request.target
    if b"host" not in fields and not request.http10:
        raise Refused(bad_http("it has no Host field"))
    if b"transfer-encoding" in fields and fields[b"transfer-encoding"].lower() != b"chunked":
        raise Refused(bad_http("the only Transfer-Encoding here is chunked"))
    if b"content-length" in fields and int(fields[b"content-length"]) > max_body_bytes:
        raise Refused(too_large(max_body_bytes))
    request.known_path = INFERENCE.get(target, "")
    if not request.known_path:  # looking into a path would take half of this function's time
        _check_target(request, target)


def _check_target(request: Request, target: bytes) -> None:
    if request.method == b"CONNECT":
        raise Refused(wrong_method(b"CONNECT", b"This port", b"GET, HEAD, OPTIONS, POST"))
    if not target.startswith(b"/"):
        request.target = _origin_form(target)
    if (b".." in target or b"%" in target) and _climbs(request.path):
        raise Refused(invalid("The path climbs with '..'. Ask for the path itself.", code="bad_path"))
    if b"%" in target and is_management(unquote_to_bytes(request.path)):
        raise Refused(management(request.path))  # engines decode a path before they look at it


def _origin_form(target: bytes) -> bytes:
    """The path and query of `http://host/path?query`; `*` stays as it is."""
    if target == b"*":
        return target
    _, separator, rest = target.partition(b"://")
    if not separator:
        raise Refused(bad_http("its target is neither a path nor a URL"))
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/"


def _climbs(path: bytes) -> bool:
    """Whether a path goes up: under an engine's base URL it would leave the part that clients are meant to reach."""
    plain = path.lower().replace(b"%2e", b".").replace(b"%2f", b"/").replace(b"%5c", b"/").replace(b"\\", b"/")
    return b".." in plain.split(b"/")
