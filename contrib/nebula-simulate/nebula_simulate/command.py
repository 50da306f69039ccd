"""`nebula simulate`: what a trace would feel like on a fleet, without the fleet."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nebula_simulate import checks
from nebula_simulate import options as typed

if TYPE_CHECKING:
    from nebula_simulate.results import Row
    from nebula_simulate.runs import Figures, Run, Setup
    from nebula_simulate.scaling.command import Options
    from nebula_simulate.strategies import Tables

DEFAULT = ("prefix", "least_pending", "round_robin")
"""The strategies that are compared unless some are named."""

HELP = "\n\n".join(
    (
        "Replay a trace of requests in virtual time, and tell how long its users would wait.",
        "The strategies are those that serve, behind the router that serves; the engines are simulated. "
        "An hour of requests on 8 replicas takes some seconds.",
        "[bold]How many replicas do I need?[/] Vary --replicas until enough answers begin within --slo-ttft.",
        "[bold]How much more can they take?[/] --load 1,1.5,2,3 replays the trace faster. "
        "A weka trace has no rate: so many agents as --sessions says work at once, times the load.",
        "[bold]Is the strategy worth it?[/] Compare it with others that are installed, and with round_robin, random, "
        "sglang, aibrix and dynamo (the rules of other routers), oracle and oracle3 (who know every queue and cache).",
        "[bold]How many GPU-hours, if replicas come and go?[/] --autoscale slo,load replays the load on a fleet that these policies scale, "
        "with the scheduler's own bounds, steps and pauses. Compare them with clairvoyant (knows what comes: the least it can cost), "
        "fixed (as many as its peak, always), hpa and apa (the rules of Kubernetes and AIBrix). Measure how long a replica takes to start, "
        "and give it as --boot-s: it decides how far ahead a policy must see.",
    )
)


def simulate(
    context: typer.Context,
    trace: typed.TraceFile = None,
    strategy: typed.Names = None,
    load: typed.Loads = None,
    replicas: typed.Replicas = 8,
    model: typed.ModelName = "steps",
    trace_format: typed.Format = None,
    kv_tokens: typed.KvTokens = None,
    engine: typed.Settings = None,
    sessions: typed.Sessions = None,
    duration: typed.Duration = None,
    distinct: typed.Distinct = False,
    gateways: typed.GatewayCount = 1,
    event_delay: typed.Delay = 0.05,
    slo_ttft: typed.Slo = 2.0,
    seeds: typed.Seeds = 3,
    jobs: typed.Jobs = None,
    json_out: typed.Json = None,
    plot: typed.Plot = None,
    settings: typed.SettingsFile = None,
    autoscale: typed.Autoscale = None,
    steps: typed.Steps = None,
    step_s: typed.StepS = None,
    begin: typed.Begin = 0.0,
    tokens: typed.Tokens = "1000,200",
    least: typed.Least = 1,
    most: typed.Most = None,
    start: typed.Start = None,
    boot_s: typed.Boot = 120.0,
    gpus: typed.Gpus = 1,
    waiting_room: typed.Room = 1024,
) -> None:
    """Read the options, run all simulations, and show what came of them. What `--help` says is `HELP`."""
    from nebula_simulate.fleet import Fleet, parameters
    from nebula_simulate.runs import Setup, runs
    from nebula_simulate.scaling.command import Options

    checks.check_options(context)
    checks.check_outs(json_out, plot)
    loads, of_engine = _loads(load or ["1"]), parameters(model, engine or ())
    if autoscale:
        options = Options(
            trace=trace, trace_format=trace_format, pattern=checks.names(steps or ()), step_s=step_s, begin_s=begin, duration_s=duration,
            load=loads[0], tokens=tokens, least=least, most=most, start=start, boot_s=boot_s, slo_s=slo_ttft, gpus=gpus,
            room=waiting_room, kv_tokens=kv_tokens, parameters=of_engine, tables=_tables(settings),
        )  # fmt: skip
        _scale(checks.names(autoscale), options, json_out, plot)
        return
    setup = Setup(
        *_replayed(trace, trace_format), Fleet(replicas, model, kv_tokens, of_engine), gateways=gateways, event_delay_s=event_delay,
        clients=sessions or 8 * replicas, duration_s=duration, distinct=distinct, slo_ttft_s=slo_ttft, tables=_tables(settings),
    )  # fmt: skip
    names = list(dict.fromkeys(checks.names(strategy or DEFAULT)))
    _show(_watch(setup, runs(names, loads, seeds), jobs or os.cpu_count() or 1), names, setup, json_out, plot)


def _replayed(trace: Path | None, trace_format: str | None) -> tuple[Path, str]:
    """The trace to replay, and its format."""
    from nebula_simulate.errors import SimulationError
    from nebula_simulate.traces import guess

    if trace is None or trace_format == "servegen":
        raise SimulationError("name the requests to replay with --trace FILE; a servegen mix is for --autoscale")
    return trace, trace_format or guess(trace)


def _loads(values: Iterable[str]) -> list[float]:
    from nebula_simulate.errors import SimulationError

    found = []
    for text in checks.names(values):
        try:
            load = float(text)
        except ValueError as error:
            raise SimulationError(f"--load {text}: not a number") from error
        if not 0.001 <= load <= 1000:
            raise SimulationError(f"--load {text}: a load is 0.001 to 1000")
        found.append(load)
    return found


def _tables(file: Path | None) -> Tables:
    """What the settings file says, if one is named: a simulation shall not depend on the folder in which it is run."""
    from nebula_simulate import strategies

    if file is None:
        return strategies.Tables()
    from nebula_core.settings import load

    settings = load(file)
    return strategies.Tables(settings.router.fallback, settings.plugins.disabled, settings.plugin_tables)


def _watch(setup: Setup, todo: list[Run], jobs: int) -> dict[Run, Figures]:
    """Run all, with a bar on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from nebula_core.cli.output import stderr
    from nebula_simulate.runs import simulate_all

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    console, figures = stderr(), {}
    # It refreshes itself with each run, without a thread that would be forked into the processes.
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("simulating", total=len(todo))
        progress.refresh()
        for run, found in simulate_all(setup, todo, jobs):
            figures[run] = found
            progress.update(task, advance=1, description=f"{run.strategy} at load {run.load:g}", refresh=True)
    return figures


def _scale(names: list[str], options: Options, json_out: Path | None, plot: Path | None) -> None:
    """Run them one after the other, and show what came of it."""
    from nebula_core.cli.output import print_json, stdout
    from nebula_simulate.scaling.command import check, comparison
    from nebula_simulate.scaling.page import page
    from nebula_simulate.scaling.table import document, table

    check(names, options.tables)
    compared = comparison(options)
    rows = list(compared.rows(list(dict.fromkeys(names))))
    if plot:
        _write(plot, page(rows, compared, shlex.join(sys.argv[1:])))
    if json_out and str(json_out) != "-":
        _write(json_out, json.dumps(document(rows, compared), indent=2) + "\n")
    if str(json_out) == "-":
        print_json(document(rows, compared))
    else:
        console = stdout()
        console.print(table(rows, compared, console.width), crop=False)


def _show(figures: dict[Run, Figures], names: list[str], setup: Setup, json_out: Path | None, plot: Path | None) -> None:
    from nebula_core.cli.output import print_json, stdout
    from nebula_simulate.results import check, document, rows
    from nebula_simulate.table import table

    found = rows(figures, names)
    check(found, setup)
    if plot:
        _write(plot, _page(found, setup))
    if json_out and str(json_out) != "-":
        _write(json_out, json.dumps(document(found, setup), indent=2) + "\n")
    if str(json_out) == "-":
        print_json(document(found, setup))
    else:
        console = stdout()
        console.print(table(found, setup, console.width), crop=False)


def _page(found: list[Row], setup: Setup) -> str:
    from nebula_simulate.page import page

    return page(found, setup, shlex.join(sys.argv[1:]))


def _write(path: Path, text: str) -> None:
    from nebula_simulate.errors import SimulationError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error.strerror}") from error
