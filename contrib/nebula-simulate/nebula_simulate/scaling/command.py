"""`nebula simulate --autoscale`: what its options come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from random import Random

from nebula_engine_sim import CostModel

from nebula_core.plugins import load
from nebula_simulate import traces
from nebula_simulate.errors import SimulationError
from nebula_simulate.fleet import COSTS, Parameters
from nebula_simulate.scaling import compare, workloads
from nebula_simulate.scaling.compare import Comparison
from nebula_simulate.scaling.deciders import Bounds
from nebula_simulate.scaling.engine import EngineSpec
from nebula_simulate.scaling.replay import Scene
from nebula_simulate.scaling.requests import Workload
from nebula_simulate.strategies import Tables

SEED = 0
"""What is drawn by chance is the same each time."""


@dataclass(frozen=True)
class Options:
    """As they were typed; what is `None` has a default that depends on others."""

    trace: Path | None
    trace_format: str | None
    pattern: Sequence[str]
    step_s: float | None
    begin_s: float
    duration_s: float | None
    load: float
    tokens: str
    least: int
    most: int | None
    start: int | None
    boot_s: float
    slo_s: float
    gpus: int
    room: int
    kv_tokens: int | None
    parameters: Parameters
    tables: Tables


def check(names: Sequence[str], tables: Tables) -> None:
    """Raise `SimulationError` for a policy or baseline that there is not."""
    compare.check(names, load(tables.disabled).names("scaler"))


def comparison(options: Options) -> Comparison:
    """Ready to be run. Unless it is told, it begins with what the clairvoyant has then, and may have half as many again as its peak."""
    workload, spec = _workload(options), _engine(options)
    if not any(spec.fits(request) for request in workload.requests):
        raise SimulationError(
            f"{workload.name}: there is no request in it that a replica with {spec.kv_tokens:,} tokens of KV cache can hold"
        )
    scene = Scene(spec, options.boot_s)
    scene = replace(scene, room=replace(scene.room, places=options.room))
    made = Comparison(workload, scene, slo_s=options.slo_s, gpus=options.gpus, tables=options.tables)
    most = ceil(1.5 * max(number for _, number in made.best)) if options.most is None else options.most
    if options.least > most:
        raise SimulationError(f"--min {options.least}: more than the most, {most}; give --max a larger number")
    made.bounds = Bounds(options.least, most)
    made.scene = replace(scene, start=made.bounds.clamp(made.best[0][1]) if options.start is None else options.start)
    return made


def _workload(options: Options) -> Workload:
    lengths = workloads.Lengths(*_pair(options.tokens), Random(SEED))
    if options.pattern:
        step_s = 3.0 * options.boot_s if options.step_s is None else options.step_s
        if step_s < 1:
            raise SimulationError(f"--boot-s {options.boot_s:g}: each step would last 3 times that; say with --step-s how long")
        return workloads.steps([options.load * rate for rate in _rates(options.pattern)], step_s, lengths, Random(SEED + 1))
    if options.trace is None:
        raise SimulationError("--autoscale needs a load: name a trace with --trace, or rates with --steps 1,4,8,2")
    if options.trace_format == "servegen" or (options.trace_format is None and _is_mix(options.trace)):
        return workloads.servegen(options.trace, options.begin_s, options.duration_s, options.load, lengths, SEED)
    trace_format = options.trace_format or traces.guess(options.trace)
    return workloads.replayed(options.trace, trace_format, options.load, options.duration_s)


def _is_mix(path: Path) -> bool:
    return path.is_dir() or path.name.endswith(".tar.zst")


def _engine(options: Options) -> EngineSpec:
    cost = CostModel(**{name: value for name, value in options.parameters.items() if name in COSTS})
    batch = {name: int(value) for name, value in options.parameters.items() if name not in COSTS}
    spec = EngineSpec(cost=cost, **batch)
    return spec if options.kv_tokens is None else replace(spec, kv_tokens=options.kv_tokens)


def _rates(texts: Sequence[str]) -> list[float]:
    try:
        found = [float(text) for text in texts]
    except ValueError as error:
        raise SimulationError(f"--steps: {error}; give requests per second, as in 1,4,8,2") from error
    if any(not 0 < rate <= 10_000 for rate in found):
        raise SimulationError("--steps: a rate is above 0 and at most 10000 requests per second")
    return found


def _pair(text: str) -> tuple[float, float]:
    try:
        prompt, answer = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SimulationError(f"--tokens {text}: give two means, as in 1000,200") from error
    if not (1 <= prompt <= 1e6 and 1 <= answer <= 1e6):
        raise SimulationError(f"--tokens {text}: a mean is 1 to 1000000 tokens")
    return prompt, answer
