"""Policies and what they are compared with, on one workload and fleet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nebula_core import Context
from nebula_core.metrics import Metrics
from nebula_core.plugins import Plugins, load
from nebula_simulate.errors import SimulationError
from nebula_simulate.scaling.baselines import clairvoyant
from nebula_simulate.scaling.baselines.apa import Apa
from nebula_simulate.scaling.baselines.hpa import Hpa
from nebula_simulate.scaling.baselines.schedule import Schedule, fixed
from nebula_simulate.scaling.deciders import Bounds, Decider, Production
from nebula_simulate.scaling.figures import SHARE, Figures, figures, regained_s
from nebula_simulate.scaling.loadtest import target
from nebula_simulate.scaling.replay import Record, Run, Scene
from nebula_simulate.scaling.requests import Workload
from nebula_simulate.strategies import Tables

BASELINES = ("fixed", "clairvoyant", "hpa", "apa")


@dataclass(frozen=True)
class Row:
    """What came of one of them."""

    name: str
    figures: Figures
    regained_s: list[float]
    looks: list[tuple[float, int, int, float, int]]


@dataclass
class Comparison:
    """A workload on a fleet. What is costly to find out is found out when it is first asked for."""

    workload: Workload
    scene: Scene
    bounds: Bounds = field(default_factory=Bounds)
    slo_s: float = 2.0
    gpus: int = 1
    tables: Tables = field(default_factory=Tables)

    def rows(self, names: Sequence[str]) -> Iterator[Row]:
        """Each by its name, as it comes."""
        plugins = load(self.tables.disabled)
        check(names, plugins.names("scaler"))
        for name in names:
            decider = self._baseline(name) if name in BASELINES else self._production(name, plugins)
            yield self._row(name, decider)

    @cached_property
    def best(self) -> clairvoyant.Changes:
        """The clairvoyant's schedule."""
        top = self.scene.engine.most_per_s(self.workload.requests)
        return clairvoyant.fewest(self.workload, top, self.scene.boot_s, self._keeps)

    @cached_property
    def target(self) -> float:
        """Requests per replica that HPA and APA are to aim at."""
        return target(self.workload, self.scene, self.slo_s)

    def _baseline(self, name: str) -> Decider:
        if name == "hpa":
            return Hpa(self.target, self.bounds)
        if name == "apa":
            return Apa(self.target, self.bounds)
        return Schedule(self.best) if name == "clairvoyant" else fixed(max(number for _, number in self.best))

    def _production(self, name: str, plugins: Plugins) -> Production:
        context = Context(logger=logging.getLogger("nebula.simulate.scaling"), metrics=Metrics(), data_dir=Path())
        policy = plugins.build("scaler", name, "--autoscale", self.tables.plugins or {}, lambda plugin: context)
        return Production(name, policy, self.bounds, self.scene.start, self.slo_s)

    def _row(self, name: str, decider: Decider) -> Row:
        record = self._played(decider)
        return Row(name, figures(record, self.slo_s, self.gpus), regained_s(record, self.slo_s), record.looks)

    def _keeps(self, changes: clairvoyant.Changes) -> bool:
        return figures(self._played(Schedule(changes)), self.slo_s, self.gpus)["attainment"] >= SHARE

    def _played(self, decider: Decider) -> Record:
        """A schedule begins with what it has at the start; all others with what the scene says."""
        start = decider.first if isinstance(decider, Schedule) else self.scene.start
        return Run(self.workload, replace(self.scene, start=start), decider).run()


def check(names: Sequence[str], installed: Sequence[str]) -> None:
    """Raise `SimulationError` for a name that there is not."""
    for name in names:
        if name not in (*installed, *BASELINES):
            raise SimulationError(
                f"--autoscale {name}: there is none of that name. Installed: {', '.join(installed) or 'none'}; "
                f"to compare with: {', '.join(BASELINES)}"
            )
