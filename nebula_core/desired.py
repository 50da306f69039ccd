"""Model requests: from settings tables and admin bodies to validated ones, and what operators do to them.

How they are written is told in `drafts`: every write is one transaction, decided anew if somebody was faster.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from nebula_core.drafts import Change, Draft, Present, arguments, decide_and_write, with_numbers_of
from nebula_core.errors import InvalidModelRequest
from nebula_core.interfaces import Engine, Store
from nebula_core.plugins import explain
from nebula_core.settings import ModelSettings
from nebula_core.types import ModelRequest

logger = logging.getLogger("nebula")

MAX_REPLICAS = 10_000
MAX_NAME = 256
GIB = 2**30


def parse(table: Mapping[str, Any]) -> ModelSettings:
    """A `[[models]]` table or the body of an admin call. Raises `InvalidModelRequest` naming the model and the key."""
    try:
        return ModelSettings.model_validate(dict(table))
    except ValidationError as error:
        where = f'the model "{table.get("model_uid", "")}"'
        raise InvalidModelRequest(explain(error, where, ModelSettings.model_fields).replace("Value error, ", "")) from error


def to_request(model: ModelSettings, engines: Mapping[str, Engine]) -> ModelRequest:
    """The request that a table stands for; without `replicas` it is one, or as near to that as its bounds allow.

    Raises `InvalidModelRequest` if names, numbers or the engine's own keys are wrong, or if the engine is not installed.
    """
    _check_names(model.model_uid, model.aliases)
    try:
        engine_args = msgspec.json.decode(msgspec.json.encode(model.engine_args))  # as it will be read back
    except (TypeError, ValueError) as error:
        raise InvalidModelRequest(f'the model "{model.model_uid}": a key of its engine cannot be kept as JSON: {error}') from error
    request = ModelRequest(
        model_uid=model.model_uid,
        engine=model.engine,
        aliases=model.aliases,
        source=model.source,
        replicas=model.replicas if "replicas" in model.model_fields_set else within_bounds(1, model.min_replicas, model.max_replicas),
        min_replicas=model.min_replicas,
        max_replicas=model.max_replicas,
        scaler=model.scaler,
        first_token_target_s=model.first_token_target_s,
        gpus_per_replica=model.gpus_per_replica,
        gpu_memory_bytes=None if model.gpu_memory_gib is None else int(model.gpu_memory_gib * GIB),
        node_labels=model.node_labels,
        max_per_node=model.max_per_node,
        strategy=model.strategy,
        first_byte_timeout_s=model.first_byte_timeout_s,
        engine_args=engine_args,
    )
    check(request, engines)
    return request


def scaled(request: ModelRequest, numbers: Mapping[str, int | None]) -> ModelRequest:
    """`request` with other `replicas`, `min_replicas` or `max_replicas`. Where only bounds are given, `replicas` moves within them."""
    changed = msgspec.structs.replace(request, **numbers)
    if "replicas" in numbers:
        return msgspec.structs.replace(changed, replicas_set=request.replicas_set + 1) if changed.max_replicas is not None else changed
    return msgspec.structs.replace(changed, replicas=within_bounds(changed.replicas, changed.min_replicas, changed.max_replicas))


def within_bounds(replicas: int, least: int | None, most: int | None) -> int:
    """The number nearest to `replicas` that the bounds allow."""
    return max(least or 0, replicas if most is None else min(replicas, most))


def check(request: ModelRequest, engines: Mapping[str, Engine]) -> None:
    """Raise `InvalidModelRequest` if the numbers contradict each other, or the engine is missing or does not accept its keys."""
    where = f'the model "{request.model_uid}"'
    check_numbers(request)
    engine = engines.get(request.engine)
    if engine is None:
        installed = ", ".join(sorted(engines)) or "none"
        raise InvalidModelRequest(f'{where}: the engine "{request.engine}" is not installed (installed: {installed})')
    try:
        engine.specs(request)
    except InvalidModelRequest:
        raise
    except Exception as error:
        raise InvalidModelRequest(f'{where}: the engine "{request.engine}" failed on this request: {error!r}') from error


def wanted(request: ModelRequest, engines: Mapping[str, Engine]) -> int:
    """How many replicas a request comes to: an engine may make other than `replicas` of it."""
    if request.engine not in engines:
        return request.replicas
    try:
        return len(engines[request.engine].specs(request))
    except InvalidModelRequest:
        return request.replicas
    except Exception as error:  # noqa: BLE001 - one engine's fault must not hide all models; the scheduler logs it and says it in `reasons`
        logger.debug('the engine "%s" failed on the request of %s: %r', request.engine, request.model_uid, error)
        return request.replicas


async def apply(store: Store, requests: Sequence[ModelRequest], now: float) -> dict[str, Change]:
    """Write all requests or none; tell for each what became of it. `now` is Unix time, seconds.

    Raises `InvalidModelRequest` if a name would stand for two models, `WriteConflict`, `StoreUnavailable`.
    """

    _check_once(requests)

    def decide(present: Present) -> tuple[dict[str, Change], Draft]:
        draft = Draft(present)
        return {request.model_uid: draft.put(request, now) for request in requests}, draft

    return await decide_and_write(store, decide)


async def scale(store: Store, engines: Mapping[str, Engine], model_uid: str, numbers: Mapping[str, int | None]) -> ModelRequest:
    """Change the numbers of a model, as `scaled` does, and return its request.

    Raises `UnknownModel`, `InvalidModelRequest`, `WriteConflict`, `StoreUnavailable`.
    """

    def decide(present: Present) -> tuple[ModelRequest, Draft]:
        request = scaled(present.request(model_uid), numbers)
        check(request, engines)
        draft = Draft(present)
        draft.put(request, now=0)
        return request, draft

    return await decide_and_write(store, decide)


async def rollback(store: Store, engines: Mapping[str, Engine], model_uid: str) -> ModelRequest:
    """Ask for what was asked of a model before its last change of arguments, with the numbers it has now; return its request.

    What stands now is kept instead, so that the next rollback takes this one back; and it is noted as rolled back, so that no settings
    file brings it in again with the next start. Raises as `scale` does.
    """

    def decide(present: Present) -> tuple[ModelRequest, Draft]:
        now, earlier = present.request(model_uid), present.earlier_request(model_uid)
        if earlier is None or arguments(earlier) == arguments(now):
            raise InvalidModelRequest(f'the model "{model_uid}" has nothing to go back to: it was loaded as it is, and only scaled since')
        request = msgspec.structs.replace(with_numbers_of(now, earlier), created=now.created, rolled_back_from=arguments(now))
        check(request, engines)
        draft = Draft(present)
        draft.put(request, now=0, back=True)
        return request, draft

    return await decide_and_write(store, decide, model_uid)


async def unload(store: Store, model_uid: str) -> None:
    """Delete a model's request. Raises `UnknownModel`, `WriteConflict`, `StoreUnavailable`."""

    def decide(present: Present) -> tuple[None, Draft]:
        draft = Draft(present)
        draft.delete(model_uid)
        return None, draft

    await decide_and_write(store, decide)


def _check_once(requests: Sequence[ModelRequest]) -> None:
    if twice := sorted(uid for uid, times in Counter(request.model_uid for request in requests).items() if times > 1):
        raise InvalidModelRequest(f'the model "{twice[0]}" is asked for twice; a model_uid may stand in one table only')


def _check_names(model_uid: str, aliases: Sequence[str]) -> None:
    for key, name in [("model_uid", model_uid), *(("aliases", alias) for alias in aliases)]:
        if not name.isprintable() or name != name.strip() or not 0 < len(name) <= MAX_NAME:
            raise InvalidModelRequest(f"{key}: {name!r} is no name: 1 to {MAX_NAME} printable characters, no space around them")
        if {"", ".", ".."} & set(name.split("/")):
            raise InvalidModelRequest(f"{key}: {name!r} is no name: between its slashes something must stand, and not . or ..")
    if len({model_uid, *aliases}) < 1 + len(aliases):
        raise InvalidModelRequest(f'the model "{model_uid}": aliases names a name twice, or the model_uid itself')


def check_numbers(request: ModelRequest) -> None:
    """Raise `InvalidModelRequest` if numbers are out of range or contradict each other."""
    _check_needs(request)
    least, most = request.min_replicas, request.max_replicas
    for key, number in (("replicas", request.replicas), ("min_replicas", least), ("max_replicas", most)):
        if number is not None and not 0 <= number <= MAX_REPLICAS:
            raise InvalidModelRequest(f'the model "{request.model_uid}": {key} must lie between 0 and {MAX_REPLICAS}, got {number}')
    if least is not None and most is not None and least > most:
        raise InvalidModelRequest(f'the model "{request.model_uid}": min_replicas ({least}) is above max_replicas ({most})')
    if not (least or 0) <= request.replicas <= (MAX_REPLICAS if most is None else most):
        raise InvalidModelRequest(
            f'the model "{request.model_uid}": replicas ({request.replicas}) must lie between '
            f"min_replicas ({least or 0}) and max_replicas ({'unlimited' if most is None else most})"
        )


def _check_needs(request: ModelRequest) -> None:
    where, memory, most = f'the model "{request.model_uid}"', request.gpu_memory_bytes, request.max_per_node
    if request.gpus_per_replica < 0:
        raise InvalidModelRequest(f"{where}: gpus_per_replica must be 0 or more, got {request.gpus_per_replica}")
    if memory is not None and memory <= 0:
        raise InvalidModelRequest(f"{where}: gpu_memory_bytes must be above 0, got {memory}; leave it out if it is not known")
    if memory is not None and request.gpus_per_replica == 0:
        raise InvalidModelRequest(f"{where}: gpu_memory_gib says what each GPU must have, and gpus_per_replica is 0; set that, too")
    if most is not None and most < 1:
        raise InvalidModelRequest(f"{where}: max_per_node must be 1 or more, got {most}; leave it out for any number")
