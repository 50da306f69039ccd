"""Replays public traces through every strategy and checks what the prefix strategy promises: `make bench-routing`.

    python bench/routing.py --traces ~/traces --out results            # everything, five seeds: hours
    python bench/routing.py --traces ~/traces --out results --quick    # one seed, 8 replicas: minutes
    python bench/routing.py --traces ~/traces --out results --only mooncake-steps-8
    python bench/routing.py --traces ~/traces --out results --again prefix   # after a change of that strategy

Each simulation is written to the folder as soon as it is done, and is not made again as long as it lies there: a run that was broken
off goes on where it was. The folder ends up with two JSON files per scenario, all simulations (`.jsonl`) and their medians, and with
`routing.md`, all tables and targets.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nebula_simulate.baselines import BASELINES
from nebula_simulate.fleet import Fleet
from nebula_simulate.results import document, rows
from nebula_simulate.runs import Figures, Run, Setup, runs, simulate_all
from nebula_simulate.table import seconds
from options import chosen
from options import parser as make_parser

from nebula_core import NebulaError

FILES = {"mooncake": "mooncake/conversation_trace.jsonl", "weka": "weka-cc/dev.jsonl.zst"}
SOURCES = """Get them from
  mooncake/conversation_trace.jsonl   https://github.com/kvcache-ai/Mooncake, FAST25-release/traces
  weka-cc/dev.jsonl.zst               https://github.com/callanjfox/kv-cache-tester, traces: one session a line, compressed with zstd
and name their folder with --traces or the environment variable NEBULA_TRACES."""
SUBJECT = "prefix"
INSTALLED = ("least_pending", "least_kv", "hit_rate", SUBJECT)
ORACLES = ("oracle", "oracle3")
QUANTILES = ("ttft_p50_s", "ttft_p90_s", "ttft_p99_s")
RIVALS, ORACLE, LIGHT, ROUND_ROBIN = 1.02, 1.05, 1.02, 0.21
"""The targets: at most so many times the best rival's, the oracle's, least pending's without shared prefixes, and round robin's P99."""
PUBLISHED_LOAD = 1.5

Document = list[dict[str, Any]]
Table = Mapping[tuple[float, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Scenario:
    """One comparison. `loads` are for 8 replicas, and grow with the fleet where the trace has a rate."""

    trace: str
    model: str
    replicas: int
    loads: tuple[float, ...]
    strategies: tuple[str, ...] = (*BASELINES, *INSTALLED)
    distinct: bool = False
    duration_s: float | None = None

    @property
    def name(self) -> str:
        """Names its files."""
        return f"{self.trace}-{self.model}-{self.replicas}" + ("-distinct" if self.distinct else "")

    @property
    def scale(self) -> float:
        """Times the loads of 8 replicas. Sessions at once are counted per replica as it is."""
        return self.replicas / 8 if self.trace == "mooncake" else 1.0


WEKA_LOADS = (0.25, 0.5, 1.0, 2.0)
WEKA_SIZES = ((8, 3600.0), (64, 1500.0))
"""Replicas and seconds: eight times the sessions are as many requests in less time."""
FULL = (
    *(Scenario("mooncake", "fcfs", replicas, (0.5, 1.0, 1.5, 2.0)) for replicas in (8, 64)),
    *(Scenario("weka", "fcfs", replicas, WEKA_LOADS, duration_s=duration) for replicas, duration in WEKA_SIZES),
    *(Scenario("mooncake", "steps", replicas, (0.5, 1.0, 1.5, 2.0, 3.0)) for replicas in (8, 64)),
    *(Scenario("weka", "steps", replicas, WEKA_LOADS, duration_s=duration) for replicas, duration in WEKA_SIZES),
    *(Scenario("mooncake", model, 8, (0.25, 0.5), ("least_pending", SUBJECT), distinct=True) for model in ("fcfs", "steps")),
)
QUICK = (
    Scenario("mooncake", "fcfs", 8, (0.5, 1.0, 1.5, 2.0)),
    Scenario("weka", "fcfs", 8, (0.5, 1.0)),
    Scenario("mooncake", "steps", 8, (1.0, 2.0)),
    Scenario("mooncake", "fcfs", 8, (0.5,), ("least_pending", SUBJECT), distinct=True),
)


def main() -> None:
    """Compute what is missing, then write and print everything."""
    parser = make_parser(__doc__, out="bench-routing", quick="one seed, 8 replicas, fewer loads: minutes")
    parser.add_argument("--again", action="append", default=[], help="a strategy to simulate anew; may be given more than once")
    parser.add_argument("--seeds", type=int, help="(default: 5, or 1 with --quick)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (default: one per core)")
    options = parser.parse_args()
    scenarios = QUICK if options.quick else FULL
    wanted = chosen(parser, options.only, scenarios)
    options.out.mkdir(parents=True, exist_ok=True)
    for scenario in wanted:
        _compute(scenario, options)
    report = "\n".join(_report(scenarios, options.out))
    (options.out / "routing.md").write_text(report)
    print(report)


def _compute(scenario: Scenario, options: argparse.Namespace) -> None:
    started = time.monotonic()
    setup = Setup(
        _trace(options.traces, scenario.trace),
        scenario.trace,
        Fleet(scenario.replicas, scenario.model),
        clients=8 * scenario.replicas,
        duration_s=scenario.duration_s,
        distinct=scenario.distinct,
    )
    wanted = runs(scenario.strategies, [load * scenario.scale for load in scenario.loads], options.seeds or (1 if options.quick else 5))
    file = options.out / f"{scenario.name}.jsonl"
    known = {run: figures for run, figures in _known(file) if run.strategy not in options.again}
    file.write_text("".join(_line(run, figures) for run, figures in known.items()))
    todo = [run for run in wanted if run not in known]
    with file.open("a", buffering=1) as lines:
        for run, figures in simulate_all(setup, todo, options.jobs) if todo else ():
            known[run] = figures
            lines.write(_line(run, figures))
            if sys.stderr.isatty():
                print(f"\r\033[K{scenario.name}: {len(known)}, {run.strategy} at load {run.load:g}", end="\r", file=sys.stderr)
    found = rows({run: known[run] for run in wanted}, scenario.strategies)
    file.with_suffix(".json").write_text(json.dumps(document(found, setup), indent=1))
    print(f"{scenario.name}: {len(todo)} simulations in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _known(file: Path) -> Iterator[tuple[Run, Figures]]:
    """The simulations that an earlier run of this script has made. A last line without an end was torn when that was killed."""
    for line in file.read_text().splitlines(keepends=True) if file.exists() else ():
        if line.endswith("\n"):
            found = json.loads(line)
            yield Run(**found["run"]), found["figures"]


def _line(run: Run, figures: Figures) -> str:
    return json.dumps({"run": asdict(run), "figures": figures}) + "\n"


def _trace(folder: Path | None, name: str) -> Path:
    if folder is None or not (Path(folder) / FILES[name]).is_file():
        raise SystemExit(f"there is no {FILES[name]} in {folder or 'any folder that was named'}. {SOURCES}")
    return Path(folder) / FILES[name]


def _report(scenarios: Sequence[Scenario], folder: Path) -> Iterator[str]:
    """All scenarios that have been computed, as Markdown."""
    for scenario in scenarios:
        file = folder / f"{scenario.name}.json"
        if not file.exists():
            yield f"## {scenario.name}\n\nnot computed yet\n"
            continue
        content: Document = json.loads(file.read_text())
        table = {(row["load"], row["strategy"]): row for row in content}
        yield f"## {scenario.name}\n"
        yield f"Medians of {len(content[0]['seeds']['requests'])} seeds. TTFT p50 / p90 / p99 in seconds (token hit rate, imbalance).\n"
        yield from _table(table)
        yield ""
        yield from _targets(scenario, table)
        yield ""


def _table(table: Table) -> Iterator[str]:
    loads, names = sorted({load for load, _ in table}), list(dict.fromkeys(name for _, name in table))
    yield "| strategy | " + " | ".join(f"load {load:g}" for load in loads) + " |"
    yield "|---" * (len(loads) + 1) + "|"
    for name in names:
        shown = f"**{name}**" if name == SUBJECT else name
        yield f"| {shown} | " + " | ".join(_cell(table[load, name]) for load in loads) + " |"


def _cell(row: Mapping[str, Any]) -> str:
    times = " / ".join(seconds(row[key]) for key in QUANTILES)
    return f"{times} ({row['token_hit_rate']:.2f}, {row['imbalance']:.2f})"


def _targets(scenario: Scenario, table: Table) -> Iterator[str]:
    """What holds and what is missed, by how much and against whom."""
    loads = sorted({load for load, _ in table})
    if scenario.distinct:
        yield from _held(
            "least_pending's, nothing shared", LIGHT, [_beside(table, load, key, ["least_pending"]) for load in loads for key in QUANTILES]
        )
        return
    rivals = [name for name in scenario.strategies if name not in (*ORACLES, SUBJECT)]
    yield from _held("the best rival's", RIVALS, [_beside(table, load, key, rivals) for load in loads for key in QUANTILES])
    yield from _held("the oracle's", ORACLE, [_beside(table, load, key, ["oracle"]) for load in loads for key in QUANTILES])
    published = PUBLISHED_LOAD * scenario.scale
    if scenario.trace == "mooncake" and published in loads:
        yield from _held("round robin's P99", ROUND_ROBIN, [_beside(table, published, "ttft_p99_s", ["round_robin"])])


Ratio = tuple[float, str]


def _beside(table: Table, load: float, key: str, others: Sequence[str]) -> Ratio:
    """The subject's value as a multiple of the best other's, and where that is."""
    best = min(others, key=lambda name: table[load, name][key])
    ratio = table[load, SUBJECT][key] / table[load, best][key]
    return ratio, f"load {load:g}, {key.removesuffix('_s')}, {best}"


def _held(whose: str, limit: float, ratios: Sequence[Ratio]) -> Iterator[str]:
    missed = sorted((pair for pair in ratios if pair[0] > limit), reverse=True)
    worst, where = max(ratios)
    yield f"- at most {limit:g} × {whose}: " + (
        f"held, at worst {worst:.3f} ({where})" if not missed else f"missed {len(missed)} of {len(ratios)}"
    )
    for ratio, where in missed:
        yield f"  - {ratio:.3f} ({where}): {ratio / limit - 1:.1%} beyond the target"


if __name__ == "__main__":
    try:
        main()
    except NebulaError as error:
        raise SystemExit(f"error: {error}") from error
