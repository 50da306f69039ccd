"""What model requests come to: the replicas that their engines make of them, or why they cannot be followed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from nebula_core import desired
from nebula_core.errors import InvalidModelRequest
from nebula_core.interfaces import Engine, Needs
from nebula_core.scheduler.world import Goal, Observed, Refusal, Wanted
from nebula_core.store import keys
from nebula_core.store.mirror import Mirror
from nebula_core.types import ModelRequest, PlacementPlan, Value


class Goals:
    """What the model requests come to. An engine is asked once per request, not once per pass."""

    def __init__(self, mirror: Mirror, engines: Mapping[str, Engine], logger: logging.Logger) -> None:
        self._mirror, self._engines, self._logger = mirror, engines, logger
        self._known: dict[str, tuple[ModelRequest, int, Goal]] = {}

    def now(self, requests: Mapping[str, ModelRequest], numbers: Mapping[str, int], observed: Observed) -> dict[str, Goal]:
        """The goal of every model that is asked for, by model_uid. `numbers` are of those whose replicas follow their load."""
        self._known = {uid: self._of(uid, request, numbers.get(uid, request.replicas)) for uid, request in requests.items()}
        goals = {uid: goal for uid, (_, _, goal) in self._known.items()}
        for uid in {*goals, *observed.plans, *(uid for uid, _ in observed.endpoints)}:
            if unreadable := self._unreadable(uid):
                wanted = requests[uid].replicas if uid in requests else 0
                goals[uid] = Refusal(wanted, _not_to_be_read(unreadable))
        return goals

    def _of(self, uid: str, request: ModelRequest, number: int) -> tuple[ModelRequest, int, Goal]:
        known = self._known.get(uid)
        if known is not None and known[0] is request and known[1] == number:
            return known
        if request.model_uid != uid:
            why = f'{keys.model_request(uid)} holds a request for the model "{request.model_uid}"; load "{uid}" anew, or unload it'
            return request, number, Refusal(number, why)
        return request, number, self._ask(msgspec.structs.replace(request, replicas=number))

    def _ask(self, request: ModelRequest) -> Goal:
        engine = self._engines.get(request.engine)
        if engine is None:
            installed = ", ".join(sorted(self._engines)) or "none"
            return Refusal(request.replicas, f'the engine "{request.engine}" is not installed at the scheduler (installed: {installed})')
        try:
            desired.check_numbers(request)
            return Wanted(engine.specs(request), _needs(request))
        except InvalidModelRequest as error:
            return Refusal(request.replicas, str(error))
        except Exception as error:
            # A plugin's fault must not stop the other models.
            self._logger.exception('the engine "%s" failed on the request of %s', request.engine, request.model_uid)
            return Refusal(request.replicas, f'the engine "{request.engine}" failed on this request: {error!r}')

    def _unreadable(self, uid: str) -> str:
        """The key of this model that is there but not to be read: a request that a newer Nebula wrote is not a deleted one."""
        kinds: tuple[tuple[str, type[Value]], ...] = ((keys.model_request(uid), ModelRequest), (keys.placement(uid), PlacementPlan))
        return next((key for key, type_ in kinds if self._mirror.entry(key) and self._mirror.get(key, type_) is None), "")


def _not_to_be_read(key: str) -> str:
    is_plan = key.startswith(keys.PLACEMENTS)
    mended_by = "deleting it has the model placed anew" if is_plan else "load the model anew, which replaces it, or unload it"
    return f"the store's key {key} cannot be read by this version of Nebula; nothing is changed; if no newer one wrote it, {mended_by}"


def _needs(request: ModelRequest) -> Needs:
    return Needs(gpu_memory_bytes=request.gpu_memory_bytes, node_labels=request.node_labels, max_per_node=request.max_per_node)
