"""The live routing table of a gateway worker: models by name, their candidates, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nebula_core.router.candidate import Candidate
from nebula_core.router.routes import ModelRoute, Route

Identity = tuple[str, str, str, int]
"""What makes a candidate the same one: model_uid, replica_id, assignment_version, incarnation."""


class Model:
    """One model of the live table. `candidates` is replaced when its membership changes, and never changed in place."""

    __slots__ = ("aliases", "boot_s", "candidates", "created", "first_byte_timeout_s", "model_uid", "note", "off", "strategy")

    def __init__(self, model_uid: str) -> None:
        self.model_uid = model_uid
        self.aliases: tuple[str, ...] = ()
        self.created = 0
        self.strategy: str | None = None
        self.first_byte_timeout_s: float | None = None
        self.note, self.off = "", False
        self.boot_s: float | None = None
        self.candidates: list[Candidate] = []

    def update(self, route: ModelRoute, departed: dict[Identity, Candidate]) -> list[Candidate]:
        """Take over a new version. Candidates of replicas that stay, or come back from `departed`, keep their load.

        Returns those that are gone.
        """
        self.aliases, self.created, self.strategy, self.note = route.aliases, route.created, route.strategy, route.note
        self.first_byte_timeout_s, self.off, self.boot_s = route.first_byte_timeout_s, route.off, route.boot_s
        before = {_identity(candidate.route): candidate for candidate in self.candidates}
        self.candidates = [_carry_over(before.pop(_identity(new), None) or departed.pop(_identity(new), None), new) for new in route.routes]
        return list(before.values())


class RoutingTable:
    """All models that this gateway knows."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.applied = False
        self.changed: Callable[[], None] = _nobody
        """Called at the end of every update: who waits for a replica may go on."""
        self.find: Callable[[str], Model | None] = self.models.get
        """The model that a client means by a name: its `model_uid` or an alias. A method of the index, so that it costs no Python frame."""
        self._replicas: dict[tuple[str, str], Candidate] = {}
        self._departed: dict[Identity, Candidate] = {}
        """Candidates that left with requests on them: a replica that comes back must not look idle."""

    def update(self, models: Iterable[ModelRoute], removed: Iterable[str] = (), *, whole: bool = False) -> list[Candidate]:
        """Take over new versions of some models, or (`whole`) of all. Returns the candidates that are gone."""
        models = list(models)
        gone = []
        for model_uid in set(self.models).difference(route.model_uid for route in models) if whole else removed:
            model = self.models.pop(model_uid, None)
            gone += model.candidates if model else []
        for route in models:
            gone += self.models.setdefault(route.model_uid, Model(route.model_uid)).update(route, self._departed)
        self._departed.update({_identity(candidate.route): candidate for candidate in gone})
        self._departed = {identity: candidate for identity, candidate in self._departed.items() if candidate.charged}
        self._index()
        if whole:
            for candidate in self._replicas.values():
                candidate.set_charged_elsewhere(0)  # a new connection tells anew what the others have
        self.applied = True
        self.changed()
        return gone

    def replica(self, model_uid: str, replica_id: str) -> Candidate | None:
        """The candidate that stands for a replica, or `None` if it is not routed to."""
        return self._replicas.get((model_uid, replica_id))

    def _index(self) -> None:
        self.find = ({alias: model for model in self.models.values() for alias in model.aliases} | self.models).get
        self._replicas = {(uid, c.route.replica_id): c for uid, model in self.models.items() for c in model.candidates}


def _nobody() -> None:
    """Nobody waits for a change."""


def _identity(route: Route) -> Identity:
    return route.model_uid, route.replica_id, route.assignment_version, route.incarnation


def _carry_over(known: Candidate | None, route: Route) -> Candidate:
    if known is None:
        return Candidate(route)
    known.route = route
    return known
