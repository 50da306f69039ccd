"""`Autoscaler`: asks the policies about every model that load may scale, when it is time to, and keeps each model's account.

A model's account lies in its status, so that the next leader goes on from it. Its times are of a clock of its own, which stands still
while nobody leads: the time of one host means nothing on another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isfinite

import msgspec

from nebula_core.interfaces import Proposal, ScalingPolicy, ScalingSignals
from nebula_core.scheduler import boots, demand
from nebula_core.scheduler.autoscale import Limits, begin, decide, follow, freeze, is_scaled
from nebula_core.scheduler.demand import Load
from nebula_core.scheduler.world import Observed
from nebula_core.types import ModelRequest, Scaling

MOST_MEMORY = 8192
"""Bytes of JSON that a policy may have remembered per model."""
MOST_INPUTS, MOST_WORDS = 16, 400
EARLY_S = 0.001
"""A look that is early by so little is not put off for it: clocks are added to each other, and sums of floats are not exact."""


class Autoscaler:
    """The leader's: one per term. `policies` are all that are installed; `preferred` is the one that a model without its own gets."""

    def __init__(
        self, policies: Mapping[str, ScalingPolicy], preferred: str | None, limits: Limits, every_s: float, logger: logging.Logger
    ) -> None:
        self._policies, self._preferred, self._limits, self._every_s, self._logger = policies, preferred, limits, every_s, logger
        self._accounts: dict[str, Scaling] = {}
        self._ahead: dict[str, float] = {}
        """By how much each model's clock is ahead of ours."""
        self._faults: dict[tuple[str, str], str] = {}

    def look(self, requests: Mapping[str, ModelRequest], observed: Observed, load: Load | None, now: float) -> dict[str, Scaling]:
        """The account of every model that has bounds, `now` being monotonic seconds. Without a load, only operators are followed."""
        bounded = {uid: each for uid, each in requests.items() if is_scaled(each) or each.min_replicas is not None}
        self._accounts = {uid: self._look(request, observed, load, now) for uid, request in bounded.items()}
        self._ahead = {uid: self._ahead[uid] for uid in bounded}
        return dict(self._accounts)

    def next_due(self) -> float | None:
        """When the next look is due, in monotonic seconds; `None`: load may scale no model."""
        due = (account.at + self._every_s - self._ahead[uid] for uid, account in self._accounts.items() if account.policy)
        return min(due, default=None)

    def is_called(self, load: Load) -> bool:
        """Whether somebody waits for a model that has no replicas: it is looked at then, due or not."""
        return any(account.replicas == 0 and load.is_called(uid) for uid, account in self._accounts.items())

    def _look(self, request: ModelRequest, observed: Observed, load: Load | None, now: float) -> Scaling:
        uid = request.model_uid
        known = self._accounts.get(uid)
        last = known or _restored(request, observed)
        clock = now + self._ahead.setdefault(uid, last.at - now)
        last = follow(last, request, clock)
        if load is None:
            return last
        name = request.scaler or self._preferred or ""
        if (refusal := self._refusal(request, name)) is not None:
            return last if last.reason == refusal and not last.policy else freeze(last, refusal, clock)
        is_due = last.policy != name or clock - last.at >= self._every_s - EARLY_S
        if not is_due and not (last.replicas == 0 and load.is_called(uid)):
            return boots.learn(last, demand.running(uid, observed), observed, clock)  # a boot may be shorter than the time between looks
        return self._ask(name, last, request, observed, load, clock)

    def _refusal(self, request: ModelRequest, name: str) -> str | None:
        """Why load changes nothing about this model, whatever it is."""
        if not is_scaled(request):
            return "load changes nothing: min_replicas is set and max_replicas is not; set it, too"
        if request.max_replicas == 0:
            return "max_replicas is 0, so there are none; set it to 1 or more"
        if name not in self._policies:
            installed = ", ".join(sorted(self._policies)) or "none"
            asked = f'the scaler "{name}" is not installed' if name else "no scaler is installed"
            return f"load changes nothing: {asked} (installed: {installed}); `pip install nebula-scaler-load` brings one"
        return None

    def _ask(self, name: str, last: Scaling, request: ModelRequest, observed: Observed, load: Load, clock: float) -> Scaling:
        last = boots.learn(last, demand.running(request.model_uid, observed), observed, clock)
        if last.policy != name:
            last = msgspec.structs.replace(last, policy=name, memory={})
        signals = demand.signals(request, observed, load, last, clock)
        proposal = self._proposal(name, signals, last, clock)
        return decide(last, request, signals, proposal, _shortage(request.model_uid, observed), self._limits, clock)

    def _proposal(self, name: str, signals: ScalingSignals, last: Scaling, clock: float) -> Proposal:
        """The policy's, or none if it fails: a plugin's fault must scale nothing."""
        try:
            proposal = _checked(self._policies[name].propose(signals, last.memory, clock))
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            if self._faults.get((name, signals.model_uid)) != fault:
                self._logger.exception('the scaler "%s" failed on %s; it is asked again', name, signals.model_uid)
            self._faults[name, signals.model_uid] = fault
            return Proposal(replicas=None, reason=f'the scaler "{name}" failed: {fault}'[:MOST_WORDS])
        self._faults.pop((name, signals.model_uid), None)
        return proposal


def _restored(request: ModelRequest, observed: Observed) -> Scaling:
    """What the last leader kept; where there is a plan and no status at all, what runs is not ended for want of a note."""
    status = observed.statuses.get(request.model_uid)
    if status is not None and status.scaling is not None:
        return status.scaling
    running = len(demand.running(request.model_uid, observed))
    return begin(request, running if status is None and running else None)


def _shortage(uid: str, observed: Observed) -> str:
    status = observed.statuses.get(uid)
    return "; ".join(status.reasons) or "some have none yet" if status is not None and status.placed < status.wanted else ""


def _checked(proposal: Proposal) -> Proposal:
    """As it will be read back from the store. Raises `ValueError` or `TypeError` for what no policy may say."""
    number = proposal.replicas
    if number is not None and (not isinstance(number, int) or number < 0):
        raise ValueError(f"it proposed {number!r} replicas")
    kept = msgspec.json.encode(proposal.memory)
    if len(kept) > MOST_MEMORY:
        raise ValueError(f"it wants {len(kept)} bytes remembered, and {MOST_MEMORY} can be")
    inputs = {name: None if value is None or not isfinite(value) else round(value, 4) for name, value in proposal.inputs.items()}
    return msgspec.structs.replace(
        proposal,
        reason=proposal.reason[:MOST_WORDS],
        inputs=dict(list(inputs.items())[:MOST_INPUTS]),
        memory=msgspec.json.decode(kept),
    )
