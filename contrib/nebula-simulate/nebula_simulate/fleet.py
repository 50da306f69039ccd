"""The simulated engines: which model of an engine, how large and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nebula_engine_sim import CostModel, FcfsEngine, SimEngine, StepEngine

from nebula_simulate.errors import SimulationError
from nebula_simulate.traces import BLOCK_TOKENS

Parameters = Mapping[str, float]
COSTS = tuple(field.name for field in fields(CostModel))
BATCH = ("max_batched_tokens", "max_sequences")
MOST, MOST_S = 1_000_000_000, 1000
"""Of a number, and of a cost in seconds: a simulation of more than that does not end."""


def _fcfs(capacity_blocks: int, parameters: Parameters) -> SimEngine:
    return FcfsEngine(block_size=BLOCK_TOKENS, capacity_blocks=capacity_blocks, **parameters)


def _steps(capacity_blocks: int, parameters: Parameters) -> SimEngine:
    cost = CostModel(**{name: value for name, value in parameters.items() if name in COSTS})
    batch: dict[str, Any] = {name: int(value) for name, value in parameters.items() if name not in COSTS}
    return StepEngine(block_size=BLOCK_TOKENS, capacity_blocks=capacity_blocks, cost=cost, **batch)


@dataclass(frozen=True)
class Model:
    """One way to simulate an engine."""

    build: Callable[[int, Parameters], SimEngine]
    kv_tokens: int
    """KV cache of a replica unless told otherwise."""
    parameters: tuple[str, ...]
    """What can be set."""


MODELS: Mapping[str, Model] = {
    "steps": Model(_steps, 409_600, (*BATCH, *COSTS)),
    "fcfs": Model(_fcfs, 2_048_000, ("tokens_per_s",)),
}


@dataclass(frozen=True)
class Fleet:
    """Replicas that are all alike."""

    replicas: int = 8
    model: str = "steps"
    kv_tokens: int | None = None
    """KV cache of a replica; `None`: the model's own."""
    parameters: Parameters = field(default_factory=dict)
    """The model's; those left out have the engine's own values."""

    @property
    def capacity_tokens(self) -> int:
        """KV cache of a replica, in whole blocks."""
        wanted = MODELS[self.model].kv_tokens if self.kv_tokens is None else self.kv_tokens
        return wanted // BLOCK_TOKENS * BLOCK_TOKENS

    def build(self) -> Mapping[str, SimEngine]:
        """Idle engines with empty caches, by `replica_id`. Raises `SimulationError` for parameters that engines cannot have."""
        build, blocks = MODELS[self.model].build, self.capacity_tokens // BLOCK_TOKENS
        try:
            return {str(place): build(blocks, self.parameters) for place in range(self.replicas)}
        except ValueError as error:
            raise SimulationError(f"the {self.model} engine cannot be made: {error}") from error


def parameters(model: str, settings: Iterable[str]) -> Parameters:
    """`key=value` texts as a model's parameters, of which an engine can be made. Raises `SimulationError` naming the one that is wrong."""
    found = {}
    for text in settings:
        key, _, value = text.partition("=")
        known = MODELS[model].parameters
        if key not in known:
            raise SimulationError(f"--set {text}: the model {model} has no {key} (it has: {', '.join(known)})")
        try:
            found[key] = float(value)
        except ValueError as error:
            raise SimulationError(f"--set {text}: {value!r} is not a number") from error
        if wanted := _wanted(key, found[key]):
            raise SimulationError(f"--set {text}: {key} is {wanted}")
    Fleet(1, model, parameters=found).build()
    return found


def _wanted(key: str, value: float) -> str:
    """What a parameter has to be, if it is not."""
    if key in COSTS:
        return "" if 0 <= value <= MOST_S else f"a number of seconds, 0 to {MOST_S}"
    if key in BATCH:
        return "" if 1 <= value <= MOST and value.is_integer() else f"a whole number, 1 to {MOST}"
    return "" if 1 <= value <= MOST else f"a number, 1 to {MOST}"
