"""Scales simulated fleets under public traces and steps, and checks what the slo policy promises: `make bench-scaling`.

    python bench/scaling.py --traces ~/traces --out results            # everything: five minutes of CPU
    python bench/scaling.py --traces ~/traces --out results --quick    # two hours of the day, and boots of 120 s: a minute
    python bench/scaling.py --out results --only steps-120             # needs no trace

Each scenario is written to the folder as soon as it is done, and is not computed again as long as it lies there. The folder ends up with a
JSON file per scenario and `scaling.md`, all tables and targets. A scenario whose trace is missing is left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

from nebula_engine_sim import CostModel
from nebula_simulate.scaling import workloads
from nebula_simulate.scaling.compare import BASELINES, Comparison
from nebula_simulate.scaling.deciders import Bounds
from nebula_simulate.scaling.engine import EngineSpec
from nebula_simulate.scaling.replay import Scene
from nebula_simulate.scaling.requests import Workload
from options import chosen
from options import parser as make_parser

from nebula_core import NebulaError

ENGINE = EngineSpec(
    cost=CostModel(step_s=24e-3, prefill_token_s=237e-6, prefill_pair_s=7.9e-9, decode_sequence_s=237e-6, decode_context_s=140e-9),
    kv_tokens=214_000,
    max_batched_tokens=2048,
    max_sequences=256,
)
"""A model of 14.8 billion parameters (Qwen 2.5 14B: 48 layers of width 5120, 8 KV heads of 128, bfloat16) on an NVIDIA A100 of 80 GB
(312 TFLOP/s, 2.0 TB/s by its data sheet), at 40 % of its arithmetic and 70 % of its bandwidth, with vLLM's defaults for it."""
SLO_S = 2.0
SUBJECT, RIVALS = "slo", ("hpa", "apa")
NAMES = (*BASELINES, "load", SUBJECT)
PATTERN = (1.0, 4.0, 8.0, 10.0, 2.0, 6.0)
SERVEGEN_LOAD = 0.02
"""Of the rates of ServeGen's clients: its busiest minute is then what seven replicas take."""
PROMPT_TOKENS, OUTPUT_TOKENS = 1000.0, 200.0
"""Means where a workload has no lengths: about those of Azure's conversations."""
ATTAINMENT, COST = 0.99, 1.25
ROOM_ABOVE_PEAK = 1.5
"""`max_replicas` as a multiple of the fixed fleet."""
FILES = {"azure": "azure/AzureLLMInferenceTrace_conv.csv", "servegen": "servegen/m-large.tar.zst"}
SOURCES = """Get them from
  azure/AzureLLMInferenceTrace_conv.csv   https://github.com/Azure/AzurePublicDataset, data (CC-BY-4.0)
  servegen/m-large.tar.zst                https://github.com/alibaba/ServeGen, data/language/m-large: a .tar.zst of its chunk-N-trace.csv
and name their folder with --traces or the environment variable NEBULA_TRACES."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One comparison."""

    kind: str
    boot_s: float
    hours: float | None = None
    """How much of a day; `None`: all of the workload."""

    @property
    def name(self) -> str:
        """Names its file."""
        return f"{self.kind}-{self.boot_s:g}"

    @property
    def is_smooth(self) -> bool:
        """Whether load changes slowly enough to be kept up with."""
        return self.kind != "steps"


BOOTS = (30.0, 120.0, 300.0)
FULL = (
    *(Scenario("azure", boot_s) for boot_s in BOOTS),
    *(Scenario("steps", boot_s) for boot_s in BOOTS),
    *(Scenario("servegen", boot_s, 24.0) for boot_s in BOOTS),
)
QUICK = (Scenario("azure", 120.0), Scenario("steps", 120.0), Scenario("servegen", 120.0, 2.0))


def main() -> None:
    """Compute what is missing, then write and print everything."""
    parser = make_parser(__doc__, out="bench-scaling", quick="two hours of the day, and boots of 120 s: a minute")
    options = parser.parse_args()
    scenarios = QUICK if options.quick else FULL
    wanted = chosen(parser, options.only, scenarios)
    options.out.mkdir(parents=True, exist_ok=True)
    for scenario in wanted:
        _compute(scenario, options.traces, options.out)
    report = "\n".join(_report(scenarios, options.out))
    (options.out / "scaling.md").write_text(report)
    print(report)


def _compute(scenario: Scenario, traces: Path | None, out: Path) -> None:
    file = out / f"{scenario.name}.json"
    if file.exists():
        return
    if scenario.kind in FILES and not (traces and (Path(traces) / FILES[scenario.kind]).is_file()):
        print(
            f"{scenario.name} is left out: there is no {FILES[scenario.kind]} in {traces or 'any folder named'}. {SOURCES}", file=sys.stderr
        )
        return
    started = time.monotonic()
    comparison = _comparison(_workload(scenario, Path(traces or "")), scenario.boot_s)
    rows = {row.name: {**row.figures, "regained_s": row.regained_s} for row in comparison.rows(NAMES)}
    file.write_text(json.dumps(_document(scenario, comparison, rows), indent=1))
    print(f"{scenario.name}: {len(NAMES)} fleets in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _workload(scenario: Scenario, traces: Path) -> Workload:
    lengths = workloads.Lengths(PROMPT_TOKENS, OUTPUT_TOKENS, Random(7))
    if scenario.kind == "steps":
        return workloads.steps(PATTERN, 3 * scenario.boot_s, lengths, Random(3))
    if scenario.kind == "azure":
        return workloads.replayed(traces / FILES["azure"], "azure", 1.0, None)
    return workloads.servegen(traces / FILES["servegen"], 0.0, 3600.0 * (scenario.hours or 24.0), SERVEGEN_LOAD, lengths, 0)


def _comparison(workload: Workload, boot_s: float) -> Comparison:
    """All begin warm, with what the clairvoyant has at the start."""
    comparison = Comparison(workload, Scene(ENGINE, boot_s), slo_s=SLO_S)
    peak = max(number for _, number in comparison.best)
    comparison.scene = Scene(ENGINE, boot_s, start=comparison.best[0][1])
    comparison.bounds = Bounds(1, ceil(ROOM_ABOVE_PEAK * peak))
    return comparison


def _document(scenario: Scenario, comparison: Comparison, rows: Document) -> Document:
    return {
        "scenario": scenario.name,
        "requests": len(comparison.workload.requests),
        "length_s": comparison.workload.length_s,
        "boot_s": scenario.boot_s,
        "slo_s": SLO_S,
        "start": comparison.scene.start,
        "max_replicas": comparison.bounds.most,
        "target": comparison.target,
        "most_per_s": ENGINE.most_per_s(comparison.workload.requests),
        "steps": _steps(comparison, rows) if not scenario.is_smooth else [],
        "rows": rows,
    }


def _steps(comparison: Comparison, rows: Document) -> list[Document]:
    """For each step: when the SLO is to be regained, by the boot time and the backlog over what is to spare at `max_replicas`."""
    boot_s, each, most = comparison.scene.boot_s, ENGINE.most_per_s(comparison.workload.requests), comparison.bounds.most
    looks = next(row.looks for row in comparison.rows([SUBJECT]))
    found = []
    for at, rate, regained in zip(comparison.workload.steps_at, PATTERN[1:], rows[SUBJECT]["regained_s"], strict=True):
        ready = [ready for when, _, ready, _, _ in looks if when <= at][-1]
        backlog = max(0.0, rate - ready * each) * boot_s
        found.append({"to": rate, "ready": ready, "within_s": boot_s + backlog / max(0.01, most * each - rate), "regained_s": regained})
    return found


def _report(scenarios: Sequence[Scenario], folder: Path) -> Iterator[str]:
    for scenario in scenarios:
        file = folder / f"{scenario.name}.json"
        yield f"## {scenario.name}\n"
        if not file.exists():
            yield "not computed\n"
            continue
        content: Document = json.loads(file.read_text())
        yield (
            f"{content['requests']:,} requests in {content['length_s'] / 3600:.1f} h, boots of {content['boot_s']:g} s, "
            f"{content['start']} replicas at the start, at most {content['max_replicas']}; "
            f"HPA and APA aim at {content['target']:.1f} requests per replica.\n"
        )
        yield from _table(content["rows"])
        yield ""
        yield from _targets(scenario, content)
        yield ""


def _table(rows: Document) -> Iterator[str]:
    yield "| | in time | GPU-hours | failed | longest wait, s | held at once | queued at once | changes |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, row in rows.items():
        shown = f"**{name}**" if name == SUBJECT else name
        yield (
            f"| {shown} | {row['attainment']:.2%} | {row['gpu_hours']:.1f} | {row['failed']:.0f} | {row['longest_wait_s']:.0f} "
            f"| {row['most_waiting']:.0f} | {row['most_pending']:.0f} | {row['changes']:.0f} |"
        )


def _targets(scenario: Scenario, content: Document) -> Iterator[str]:
    """What holds and what is missed, and by how much."""
    rows = content["rows"]
    ours = rows[SUBJECT]
    yield f"- no failed request: {_verdict(ours['failed'] == 0)}, {ours['failed']:.0f}; a waiting room of {ours['most_waiting']:.0f}"
    if scenario.is_smooth:
        ratio = ours["gpu_hours"] / rows["clairvoyant"]["gpu_hours"]
        yield f"- {ATTAINMENT:.0%} in time: {_verdict(ours['attainment'] >= ATTAINMENT)}, {ours['attainment']:.2%}"
        yield f"- at most {COST:g} × the clairvoyant's GPU-hours: {_verdict(ratio <= COST)}, {ratio:.3f}"
    for step in content["steps"]:
        said = f"{step['regained_s']:.0f} s of {step['within_s']:.0f} s"
        yield f"- the step to {step['to']:g}/s, on {step['ready']} replicas: {_verdict(step['regained_s'] <= step['within_s'])}, {said}"
    better = [name for name in RIVALS if rows[name]["attainment"] > ours["attainment"] and rows[name]["gpu_hours"] < ours["gpu_hours"]]
    yield f"- neither baseline better in both: {_verdict(not better)}" + (f", {' and '.join(better)}" if better else "")


def _verdict(holds: bool) -> str:
    return "held" if holds else "**missed**"


if __name__ == "__main__":
    try:
        main()
    except NebulaError as error:
        raise SystemExit(f"error: {error}") from error
