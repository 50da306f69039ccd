"""What a client of the public port is told when its request cannot be served: OpenAI's envelope, and what to do about it.

These are answers, not exceptions; `Refused` only carries one out of the reading of a body.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nebula_core.gateway.data_path.answers import Answer, json_answer

if TYPE_CHECKING:
    from collections.abc import Collection

NAMES_SHOWN = 20
"""Known models that a 404 names, and characters of a name that it repeats, times ten: an answer stays small."""
RETRY_AFTER_S = 5
LONGEST_RETRY_AFTER_S = 60
"""OpenAI's clients take no notice of what is longer."""
NONE_WANTED = "Its operator has set it to 0 replicas; `nebula models scale` changes that."
NO_ROOM = "No more requests may wait for one ([gateway] wait_requests, wait_bytes)."
STOPPING = "This gateway stops."
EXAMPLE = '{"model": "NAME", ...}'


class Refused(Exception):
    """The request is answered with `answer` and goes no further."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def envelope(message: str, type_: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def invalid(message: str, *, status: int = 400, param: str | None = None, code: str | None = None, lines: tuple[bytes, ...] = ()) -> Answer:
    """The client has to change something before it tries again."""
    return json_answer(status, envelope(message, "invalid_request_error", param, code), *lines)


def unavailable(message: str, *, status: int = 503, code: str, lines: tuple[bytes, ...] = ()) -> Answer:
    """The fault is on this side: the same request may succeed later."""
    return json_answer(status, envelope(message, "server_error", None, code), *lines)


def bad_http(reason: str) -> Answer:
    """The bytes are no HTTP/1.1 request; nothing after them can be read."""
    return invalid(f"This is not a valid HTTP/1.1 request: {reason}.", code="bad_request")


def no_such_page(method: bytes, path: bytes) -> Answer:
    """No such path for this method."""
    asked = f"{method.decode('latin-1')} {path[: NAMES_SHOWN * 10].decode('latin-1')}"
    return invalid(f"There is no {asked} here. POST to an inference path such as /v1/chat/completions.", status=404, code="not_found")


def management(path: bytes) -> Answer:
    """A path by which engines are managed."""
    message = f"{path.decode(errors='replace')} manages an engine and is not served here. An operator can call the engine itself."
    return invalid(message, status=403, code="not_served")


def wrong_method(method: bytes, path: bytes, allow: bytes) -> Answer:
    """The path exists, for other methods."""
    message = f"{path[: NAMES_SHOWN * 10].decode('latin-1')} does not answer {method.decode('latin-1')}. Use {allow.decode()}."
    return invalid(message, status=405, code="method_not_allowed", lines=(b"allow: %b\r\n" % allow,))


def too_large(limit: int) -> Answer:
    """The body is over `[gateway] max_body_bytes`."""
    message = f"The request's body is larger than the {limit} bytes allowed here. Send less, or raise [gateway] max_body_bytes."
    return invalid(message, status=413, code="body_too_large")


def head_too_large(limit: int) -> Answer:
    """Request line and header fields are over the limit."""
    return invalid(f"The request's headers are larger than the {limit} bytes allowed here. Send fewer.", status=431, code="head_too_large")


def too_slow(what: str, seconds: float) -> Answer:
    """The client stopped sending in the middle of a request."""
    return invalid(f"The request's {what} did not arrive within {seconds:g} s. Send it again, at once.", status=408, code="request_timeout")


def missing_model() -> Answer:
    """The body names no model."""
    return invalid(f'The request names no model. Add "model" to its body: {EXAMPLE}.', param="model", code="missing_model")


def unknown_model(name: str, known: Collection[str]) -> Answer:
    """No model has this name."""
    shown = ", ".join(sorted(known)[:NAMES_SHOWN]) or "none"
    more = f" and {len(known) - NAMES_SHOWN} more (see /v1/models)" if len(known) > NAMES_SHOWN else ""
    message = f'The model "{name[: NAMES_SHOWN * 10]}" does not exist. Models here: {shown}{more}.'
    return invalid(message, status=404, param="model", code="model_not_found")


def no_replica(model_uid: str, note: str, why: str = "", seconds: int = RETRY_AFTER_S) -> Answer:
    """The model is known, but nothing can serve it now. `why` says in a sentence why the request does not wait for what can."""
    state = f'The model "{model_uid}" has no replica that can serve it now{": " + note if note else ""}.'
    message = " ".join(filter(None, (state, why, f"Try again in {seconds} s.")))
    return unavailable(message, code="no_ready_replica", lines=(b"retry-after: %d\r\n" % seconds,))


def waited_long(seconds: float) -> str:
    """Why a request does not wait any longer."""
    return f"The request has waited {seconds:g} s for one."


def retry_after_s(boot_s: float | None, elapsed_s: float) -> int:
    """When a replica that boots since `elapsed_s` seconds should be ready, in whole seconds from now that clients accept."""
    left = math.ceil(boot_s - elapsed_s) if boot_s is not None else 0
    return min(left, LONGEST_RETRY_AFTER_S) if left > 0 else RETRY_AFTER_S


def unreachable(model_uid: str) -> Answer:
    """Every replica refused the connection."""
    message = f'No replica of the model "{model_uid}" accepts connections now. Try again in {RETRY_AFTER_S} s.'
    return unavailable(message, code="no_ready_replica", lines=(b"retry-after: %d\r\n" % RETRY_AFTER_S,))


def engine_lost(model_uid: str) -> Answer:
    """The engine dropped the connection, or answered what is no HTTP, before the first byte of its answer's body."""
    return unavailable(f'The engine of the model "{model_uid}" failed before it answered. Try again.', status=502, code="engine_failed")


def engine_silent(model_uid: str, seconds: float) -> Answer:
    """The engine has not begun to answer in time."""
    message = f'The engine of the model "{model_uid}" did not begin to answer within {seconds:g} s. Ask for less, or try again later.'
    return unavailable(message, status=504, code="engine_timeout")


def internal() -> Answer:
    """A fault of the gateway's own; the log has it."""
    return unavailable("The gateway failed on this request; its log says why. Try again.", status=500, code="internal_error")
