"""Many simulations: one for each strategy, load and seed, in parallel processes."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from nebula_engine_sim import Job

from nebula_simulate import strategies, traces
from nebula_simulate.errors import SimulationError
from nebula_simulate.fleet import Fleet
from nebula_simulate.gateways import Gateways
from nebula_simulate.replay import Replay
from nebula_simulate.scene import Scene
from nebula_simulate.strategies import Tables
from nebula_simulate.timeline import Timeline
from nebula_simulate.workload import Demand, clients, ends_s


@dataclass(frozen=True)
class Setup:
    """What all simulations of a comparison have in common."""

    trace: Path
    trace_format: str
    fleet: Fleet = field(default_factory=Fleet)
    gateways: int = 1
    event_delay_s: float = 0.05
    clients: int = 0
    """Sessions at once at load 1, for a trace without times."""
    duration_s: float | None = None
    distinct: bool = False
    slo_ttft_s: float = 2.0
    tables: Tables = field(default_factory=Tables)


@dataclass(frozen=True, order=True)
class Run:
    """One simulation."""

    load: float
    strategy: str
    seed: int


Figures = dict[str, float]


def runs(names: Sequence[str], loads: Sequence[float], seeds: int) -> list[Run]:
    """All combinations, the highest loads first: they take the longest."""
    return [Run(load, name, seed) for load, seed, name in itertools.product(sorted(loads, reverse=True), range(seeds), names)]


def simulate(setup: Setup, run: Run) -> Figures:
    """One simulation, the same figures each time but for what it took."""
    trace = traces.read(setup.trace, setup.trace_format)
    demand = Demand(trace, run.load, run.seed, setup.clients, setup.duration_s, setup.distinct)
    timeline, engines, rng = Timeline(), setup.fleet.build(), Random(run.seed + 1)
    jobs: dict[str, Job] = {}
    scene = Scene(timeline.clock, rng, engines, jobs)
    gateways = Gateways(
        [strategies.build(run.strategy, setup.tables, scene) for _ in range(setup.gateways)],
        default=run.strategy,
        fallback=setup.tables.fallback,
        replicas=list(engines),
        timeline=timeline,
        delay_s=setup.event_delay_s,
    )
    replay = Replay(timeline, engines, gateways, jobs, Random(run.seed + 2), ends_s(demand))
    return replay.run(clients(demand)).figures(setup.slo_ttft_s)


def simulate_all(setup: Setup, todo: Sequence[Run], jobs: int) -> Iterator[tuple[Run, Figures]]:
    """Each run with its figures, as they come. The trace is read first, so that a broken one is told before anything starts."""
    traces.read(setup.trace, setup.trace_format)
    strategies.check({run.strategy for run in todo}, setup.tables)
    if jobs <= 1 or len(todo) == 1:
        for run in todo:
            yield run, simulate(setup, run)
        return
    # Forked, so that all processes share the trace that was read here.
    forked = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=forked, initializer=_die_quietly) as pool:
        running = {pool.submit(simulate, setup, run): run for run in todo}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BrokenProcessPool as error:
            raise SimulationError("a process of the simulation was killed; if memory ran out, try fewer --jobs") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _die_quietly() -> None:
    """Ctrl-C reaches all processes of a terminal; one that tells is enough."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
