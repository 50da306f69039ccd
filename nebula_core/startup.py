"""What happens between the start of `nebula up` and its last line: declared models are checked, seeded and waited for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from nebula_core import desired
from nebula_core.admin import status
from nebula_core.admin.documents import ModelView
from nebula_core.admin.seen import Seen
from nebula_core.admin.view import View
from nebula_core.app import App
from nebula_core.errors import LaunchError, PluginError
from nebula_core.plugins import way_out
from nebula_core.roles import Progress
from nebula_core.seeding import seed
from nebula_core.store import keys
from nebula_core.types import DRAINING, READY, UNHEALTHY, ModelRequest

logger = logging.getLogger("nebula")

LOOK_AGAIN_S = 1.0
PROMPT_S = 1.0
"""A store that answers within this time need not be mentioned."""
PLACE_S = 5.0
"""Time for the node to be heard of and for replicas to be placed, before it counts as a problem that they are not."""


def requests(app: App) -> list[ModelRequest]:
    """The models that the settings declare, validated. Raises `InvalidModelRequest`."""
    return [desired.to_request(model, app.engines) for model in app.settings.models]


def check(app: App, declared: Sequence[ModelRequest]) -> None:
    """Raise `LaunchError` if this machine lacks what a declared model needs, such as its file; `PluginError` if its engine cannot tell."""
    for request in declared:
        engine = app.engines[request.engine]
        for spec in engine.specs(request):
            try:
                engine.check(spec)
            except LaunchError as error:
                raise LaunchError(f'the model "{request.model_uid}" cannot be started here: {error}') from error
            except Exception as error:
                plugin = app.plugins.offer("engine", request.engine, f'the model "{request.model_uid}"').plugin
                raise PluginError(
                    f'the engine "{request.engine}" failed to check the model "{request.model_uid}": '
                    f"{type(error).__name__}: {error}; {way_out(plugin)}"
                ) from error


async def wait_for_store(
    app: App, progress: Progress, meanwhile: AbstractAsyncContextManager[None], patience_s: float | None = None
) -> None:
    """Wait until all that is followed has been read from the store, for `patience_s` seconds at most; `None`: as long as it takes.

    `meanwhile` is entered for a wait that is worth a word. Why it does not answer is logged by the mirror.
    """
    synced = asyncio.ensure_future(app.mirror.wait_synced())
    try:
        await asyncio.wait([synced], timeout=PROMPT_S if patience_s is None else patience_s)
        if not synced.done() and patience_s is None:
            progress.step(f"waiting for the {app.settings.store.use} store: nothing is started before it answers")
            async with meanwhile:
                await synced
    finally:
        synced.cancel()


async def seed_models(app: App, declared: Sequence[ModelRequest]) -> None:
    """Write the declared models whose tables changed since this host's settings were last applied."""
    seeded = await seed(app.store, app.settings.node_name, declared, time.time())
    for model_uid, change in seeded.applied.items():
        logger.debug('the model "%s" is %s by the settings', model_uid, change)
    for model_uid in seeded.deleted:
        logger.info('the model "%s" is no longer in the settings and is unloaded', model_uid)
    for model_uid in seeded.rolled_back:
        logger.warning('the model "%s" was rolled back from what the settings ask for and stays so; `nebula apply` applies them', model_uid)
    standing = {request.model_uid for request in app.mirror.values(keys.MODEL_REQUESTS, ModelRequest).values()}
    for request in declared:
        if request.model_uid not in standing | seeded.applied.keys():
            logger.warning('the model "%s" was unloaded and stays so; `nebula apply` loads it again', request.model_uid)


async def wait_ready(view: View, declared: Sequence[ModelRequest], progress: Progress, *, since: int, keep_going: bool) -> None:
    """Wait until every declared model is ready. Raises `LaunchError` if one does not start, unless `keep_going`.

    What the store says of engines counts only if it was written after the revision `since`: an earlier process may have left more.
    """
    waiting = {request.model_uid for request in declared}
    began = time.monotonic()
    changes = view.mirror.subscribe()
    while waiting:
        seen = view.seen()
        waiting &= seen.requests.keys()
        for model_uid in sorted(waiting):
            model = status.model(seen, model_uid)
            progress.model(model_uid, model.state, _detail(model))
            problem = _dead(view, model, since)
            if time.monotonic() - began > PLACE_S:
                problem = problem or _unplaced(model) or _unheard(seen, model)
            if model.state in (READY, "stopped") or problem:
                waiting.discard(model_uid)
            if problem:
                _give_up(model_uid, problem, keep_going=keep_going)
        if waiting:
            await changes.wait(LOOK_AGAIN_S)


def what_next(address: str, admin_url: str, models: Sequence[str]) -> list[str]:
    """The last lines of a start: where everything is, and a command to try."""
    lines = [f"OpenAI API  http://{address}/v1", f"Admin API   {admin_url}/docs", "Ctrl-C stops everything."]
    if not models:
        return [*lines, "Try next:   nebula models load smollm2 --engine llamacpp"]
    return [*lines, f'Try next:   nebula chat {models[0]} "Why is the sky blue?"']


def _give_up(model_uid: str, problem: str, *, keep_going: bool) -> None:
    if not keep_going:
        raise LaunchError(f'the model "{model_uid}" did not start: {problem}')
    logger.error('the model "%s" did not start, going on without it: %s', model_uid, problem)


def _detail(model: ModelView) -> str:
    return f"{model.ready} of {model.wanted} ready" if model.wanted > 1 else ""


def _dead(view: View, model: ModelView, since: int) -> str:
    """Why an engine of it died, if one did after the revision `since`."""
    for replica in model.replicas:
        entry = view.mirror.entry(keys.endpoint(model.model_uid, replica.replica_id))
        if replica.state == UNHEALTHY and entry is not None and entry.mod_revision > since:
            return replica.reason
    return ""


def _unplaced(model: ModelView) -> str:
    return "; ".join(model.reasons)


def _unheard(seen: Seen, model: ModelView) -> str:
    """The node that is to run a replica of it and is not heard of, such as this one under an earlier name."""
    node_id = next((replica.node_id for replica in model.replicas if replica.state != DRAINING and replica.node_id not in seen.nodes), "")
    return node_id and f'its replica belongs on the node "{node_id}", which is not heard of; `[node] name` gives this one its name back'
