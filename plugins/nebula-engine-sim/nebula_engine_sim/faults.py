"""Faults on a timeline: what shall go wrong with an engine, and when."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FaultKind = Literal["crash", "hang", "slow_start", "stall", "errors", "frozen_metrics", "lying_metrics"]


class Fault(BaseModel):
    """One thing that goes wrong. Times are seconds by the engine's clock, which starts with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    """`crash`: the process ends, or with many engines in one its port closes. `hang`: it accepts connections and says nothing.
    `slow_start`: it listens only when this is over, whatever `at_s` is. `stall`: streams stop. `errors`: requests are refused.
    `frozen_metrics`: the page stays as it was. `lying_metrics`: `values` stand on the page instead of the truth."""
    at_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    for_s: float = Field(inf, gt=0, allow_inf_nan=False)
    """How long it lasts; for ever if left out. After a crash of one engine among many, it then starts again with an empty cache."""
    after_tokens: int = Field(4, ge=0)
    """`stall`: a stream gets so many tokens."""
    status: int = Field(500, ge=400, le=599)
    """`errors`: what requests are answered with."""
    code: int = Field(1, ge=0, le=255)
    """`crash`: the exit code."""
    values: dict[str, float] = {}
    """`lying_metrics`: a metric's name, such as `vllm:num_requests_running`, and what it says."""

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at_s + self.for_s

    def at(self, now: float) -> bool:
        """Whether it is in force."""
        return self.at_s <= now < self.ends_s


class Timeline:
    """All faults of an engine."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)

    def now(self, kind: FaultKind, now: float) -> Fault | None:
        """The fault of this kind that is in force; of several the one that lasts longest."""
        return max((fault for fault in self.of(kind) if fault.at(now)), key=lambda fault: fault.ends_s, default=None)

    def of(self, kind: FaultKind) -> list[Fault]:
        """All faults of a kind."""
        return [fault for fault in self.faults if fault.kind == kind]

    def after(self, seconds: float) -> Timeline:
        """What is left of it after so many seconds, by a clock that starts then."""
        left = [fault for fault in self.faults if fault.ends_s > seconds and fault.kind != "slow_start"]
        return Timeline([_later(fault, seconds) for fault in left])

    def start_s(self) -> float:
        """Seconds that pass until it listens."""
        return max((fault.for_s for fault in self.of("slow_start")), default=0.0)

    def hung_s(self, now: float) -> float:
        """For how much of the time until `now` it hung and computed nothing."""
        total = until = 0.0
        for fault in sorted(self.of("hang"), key=lambda fault: fault.at_s):
            begins, ends = max(until, fault.at_s), min(now, fault.ends_s)
            total += max(0.0, ends - begins)
            until = max(until, ends)
        return total


def _later(fault: Fault, seconds: float) -> Fault:
    at_s = max(0.0, fault.at_s - seconds)
    return fault.model_copy(update={"at_s": at_s, "for_s": fault.ends_s - seconds - at_s})


def read_faults(path: Path) -> tuple[Fault, ...]:
    """The `[[faults]]` of a TOML file, or the list of a JSON file. Raises `ValueError` or `OSError` that says what is wrong."""
    content = path.read_text()
    if path.suffix == ".json":
        return TypeAdapter(tuple[Fault, ...]).validate_json(content)
    table = tomllib.loads(content)
    if set(table) - {"faults"}:
        raise ValueError(f"{path} has {', '.join(sorted(set(table) - {'faults'}))} beside [[faults]]")
    return TypeAdapter(tuple[Fault, ...]).validate_python(table.get("faults", []))
