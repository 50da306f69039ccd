"""A simulated vLLM: over HTTP for machines without GPUs, and in virtual time for simulations.

In virtual time:

    engine = FcfsEngine(block_size=512, capacity_blocks=4000, tokens_per_s=8000)
    engine.submit(Job("a", blocks=(1, 2), prompt_tokens=1100, output_tokens=20), now=0.0)
    engine.advance(10.0)        # what happened until then
"""

from __future__ import annotations

from nebula_core import Engine, Provider, hookimpl
from nebula_engine_sim.cost import CostModel
from nebula_engine_sim.engine import SimulatedEngine
from nebula_engine_sim.fcfs import FcfsEngine
from nebula_engine_sim.job import Happening, Job
from nebula_engine_sim.sim_engine import SimEngine
from nebula_engine_sim.steps import StepEngine

__all__ = ["CostModel", "FcfsEngine", "Happening", "Job", "SimEngine", "StepEngine"]


@hookimpl
def nebula_register_engines() -> list[Provider[Engine]]:
    """The engine `sim`."""
    return [Provider(name="sim", build=lambda context, settings: SimulatedEngine())]
