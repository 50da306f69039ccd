"""What a small fleet takes of some requests: the test that a user runs before choosing a target for an autoscaler."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from random import Random

from nebula_simulate.scaling.baselines.schedule import fixed
from nebula_simulate.scaling.figures import SHARE, figures
from nebula_simulate.scaling.replay import Run, Scene
from nebula_simulate.scaling.requests import Request, Workload

FLEET, LASTS_S = 4, 1800.0
DOWN, MOST_TRIES = 0.96, 60
KEPT = 0.8
"""Share of it that is aimed at: the usual advice, for something has to be left while new replicas start."""


def target(workload: Workload, scene: Scene, slo_s: float, seed: int = 0) -> float:
    """Requests in flight per replica to aim at: `KEPT` of those that one of four has at the highest rate that keeps the SLO."""
    top = scene.engine.most_per_s(workload.requests)
    found = [DOWN**tries * top for tries in range(MOST_TRIES)]
    place = bisect_left(range(MOST_TRIES), True, key=lambda tries: _tried(workload, scene, slo_s, found[tries], seed)[0] >= SHARE)
    return KEPT * _tried(workload, scene, slo_s, found[min(place, MOST_TRIES - 1)], seed)[1]


def _tried(workload: Workload, scene: Scene, slo_s: float, rate: float, seed: int) -> tuple[float, float]:
    """Attainment, and mean requests in flight per replica, with so many such requests per second and replica, by chance."""
    rng, at, drawn = Random(seed), 0.0, list[Request]()
    while at < LASTS_S:
        at += rng.expovariate(rate * FLEET)
        drawn.append(rng.choice(workload.requests)._replace(came=at))
    record = Run(Workload("load test", drawn), replace(scene, start=FLEET), fixed(FLEET)).run()
    settled = [in_flight for at, _, _, _, in_flight in record.looks if LASTS_S / 4 <= at <= LASTS_S]
    return figures(record, slo_s, 1)["attainment"], sum(settled) / max(1, len(settled)) / FLEET
