"""Waiting until a running Nebula has brought a model to where it shall be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from nebula_core.cli.status_view import why
from nebula_core.errors import LaunchError

if TYPE_CHECKING:
    from nebula_core.admin.client import AdminClient
    from nebula_core.roles import Progress

PERIOD_S: Final = 0.3
GIVE_UP_S: Final = 5.0
"""How long a model may have no place to run before that counts as failed: longer than nodes take to show up after a start."""
Document = Mapping[str, Any]
Start = tuple[str, str, int]
"""One start of a replica: its id, its assignment's version and its incarnation."""


@dataclass(frozen=True)
class Verdict:
    """How far a model is. `failure` says why it will not get there by itself."""

    done: bool = False
    failure: str = ""


def judge(model: Document, earlier: frozenset[Start], unplaced_s: float) -> Verdict:
    """Whether a model is where it shall be; failures of the `earlier` starts are old news. `unplaced_s`: for how long it had no place."""
    staying = [replica for replica in model["replicas"] if replica["state"] != "draining"]
    for replica in staying:
        if replica["state"] == "unhealthy" and _start(replica) not in earlier:
            return Verdict(failure=replica["reason"])
    if unplaced_s >= GIVE_UP_S:
        return Verdict(failure="\n".join(why(model)))
    all_ready = all(replica["state"] == "ready" for replica in staying)  # an old replica serves until its successor is ready
    return Verdict(done=all_ready and len(staying) == model["wanted"])


def starts(model: Document | None) -> frozenset[Start]:
    """The starts that are known of a model before something is asked of it."""
    return frozenset(_start(replica) for replica in model["replicas"]) if model else frozenset()


def until_ready(client: AdminClient, model_uid: str, earlier: frozenset[Start], progress: Progress) -> Document:
    """Wait until all replicas are ready, and return the model. Raises `LaunchError` with what a failed engine said last."""
    placed_at = time.monotonic()
    while True:
        time.sleep(PERIOD_S)  # first, so that the scheduler has seen what was asked for
        model = client.model(model_uid)
        if model["state"] != "unplaced":
            placed_at = time.monotonic()
        verdict = judge(model, earlier, time.monotonic() - placed_at)
        if verdict.failure:
            progress.model(model_uid, "failed", "")
            _give_up(model_uid, verdict.failure, was_there=bool(earlier))
        progress.model(model_uid, model["state"], "\n".join(why(model)))
        if verdict.done:
            return model


def until_gone(client: AdminClient, model_uid: str, progress: Progress) -> None:
    """Wait until nothing is left of a model."""
    while model := find(client, model_uid):
        draining = dict.fromkeys(replica["reason"] for replica in model["replicas"] if replica["state"] == "draining")
        progress.model(model_uid, model["state"], "\n".join(draining))
        time.sleep(PERIOD_S)


def find(client: AdminClient, model_uid: str) -> Document | None:
    """A model, if there is one of that name."""
    return next((model for model in client.models() if model["model_uid"] == model_uid), None)


def _start(replica: Document) -> Start:
    return replica["replica_id"], replica["assignment_version"], replica["incarnation"]


def _give_up(model_uid: str, failure: str, *, was_there: bool) -> NoReturn:
    rollback = f"`nebula models rollback {model_uid}` takes back the last change of its arguments, " if was_there else ""
    way_out = f"Nebula goes on trying; {rollback}`nebula models unload {model_uid}` ends that."
    raise LaunchError(f'the model "{model_uid}" does not start: {failure}\n{way_out}')
