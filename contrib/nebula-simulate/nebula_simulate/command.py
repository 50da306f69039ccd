"""`nebula simulate`: what a trace would feel like on a fleet, without the fleet."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from nebula_simulate.results import Row
    from nebula_simulate.runs import Figures, Run, Setup
    from nebula_simulate.scaling.command import Options
    from nebula_simulate.strategies import Tables

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

Loads = Annotated[
    list[str] | None,
    typer.Option("--load", metavar="X[,Y…]", help="Times the trace's own rate, or the sessions at once.", show_default="1"),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        metavar="NAME[,NAME…]",
        help="Routing strategy, installed or to compare with.",
        show_default="prefix,least_pending,round_robin",
    ),
]
TraceFile = Annotated[Path | None, typer.Option("--trace", metavar="FILE", help="The requests to replay; .zst is read as it is.")]
Format = Annotated[
    Literal["mooncake", "weka", "azure", "lmcache", "servegen"] | None,
    typer.Option("--format", help="The trace's format; servegen, a mix of clients, is for --autoscale.", show_default="by its first line"),
]
Replicas = Annotated[int, typer.Option(min=1, max=4096, help="Replicas of the model.")]
ModelName = Annotated[
    Literal["steps", "fcfs"],
    typer.Option("--model", help="Engine: continuous batching in steps, or one prompt after the other without decoding."),
]
KvTokens = Annotated[
    int | None,
    typer.Option(min=512, metavar="TOKENS", help="KV cache of a replica.", show_default="409,600 for steps, 2,048,000 for fcfs"),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter of the engine, such as tokens_per_s=12000 of fcfs or max_sequences=128 of steps.",
    ),
]
Sessions = Annotated[int | None, typer.Option(min=1, help="For weka: sessions at once at load 1.", show_default="8 per replica")]
Duration = Annotated[float | None, typer.Option(min=1, metavar="SECONDS", help="How much of the trace.", show_default="all; weka: 3600")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="Repetitions with other dice; medians are shown.")]
GatewayCount = Annotated[int, typer.Option("--gateways", min=1, max=64, help="Gateways that the requests are dealt over.")]
Delay = Annotated[float, typer.Option("--event-delay", min=0, metavar="SECONDS", help="Until a gateway hears of another's requests.")]
Slo = Annotated[float, typer.Option("--slo-ttft", "--slo-s", min=0.001, metavar="SECONDS", help="A first token within this is good.")]
Distinct = Annotated[bool, typer.Option("--distinct", help="No two prompts share a prefix.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="OUT", help="Write the figures as JSON; - for standard output, instead of the table.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="OUT.html", help="Write a page with charts.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes at once.", show_default="one per core")]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings", "-s", metavar="FILE", help="Settings file whose strategy tables and fallback count; without it their defaults."
    ),
]
SCALING = "With --autoscale"
Autoscale = Annotated[
    list[str] | None,
    typer.Option(
        "--autoscale",
        metavar="NAME[,NAME…]",
        rich_help_panel=SCALING,
        help="Who changes the number of replicas: an installed policy, or fixed, clairvoyant, hpa, apa to compare with.",
    ),
]
Steps = Annotated[
    list[str] | None,
    typer.Option("--steps", metavar="R[,R…]", rich_help_panel=SCALING, help="Instead of a trace: so many requests per second, in turn."),
]
StepS = Annotated[
    float | None,
    typer.Option("--step-s", min=1, metavar="SECONDS", rich_help_panel=SCALING, help="How long each.", show_default="3 times --boot-s"),
]
Begin = Annotated[float, typer.Option("--begin", min=0, metavar="SECONDS", rich_help_panel=SCALING, help="Where a servegen mix begins.")]
Tokens = Annotated[
    str,
    typer.Option(
        "--tokens", metavar="PROMPT,ANSWER", rich_help_panel=SCALING, help="Mean lengths, where the load has none: of servegen and --steps."
    ),
]
Least = Annotated[int, typer.Option("--min", min=0, max=4096, rich_help_panel=SCALING, help="min_replicas of the model.")]
Most = Annotated[
    int | None,
    typer.Option("--max", min=1, max=4096, rich_help_panel=SCALING, help="max_replicas of the model.", show_default="1.5 × fixed"),
]
Start = Annotated[
    int | None,
    typer.Option("--start", min=0, max=4096, rich_help_panel=SCALING, help="Replicas at the start.", show_default="the clairvoyant's"),
]
Boot = Annotated[float, typer.Option("--boot-s", min=0, metavar="SECONDS", rich_help_panel=SCALING, help="Until a new replica serves.")]
Gpus = Annotated[int, typer.Option("--gpus", min=1, rich_help_panel=SCALING, help="GPUs per replica.")]
Room = Annotated[
    int, typer.Option("--waiting-room", min=0, rich_help_panel=SCALING, help="Requests held while no replica is ready, for 50 s at most.")
]


def simulate(
    trace: TraceFile = None,
    strategy: Names = None,
    load: Loads = None,
    replicas: Replicas = 8,
    model: ModelName = "steps",
    trace_format: Format = None,
    kv_tokens: KvTokens = None,
    engine: Settings = None,
    sessions: Sessions = None,
    duration: Duration = None,
    distinct: Distinct = False,
    gateways: GatewayCount = 1,
    event_delay: Delay = 0.05,
    slo_ttft: Slo = 2.0,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    json_out: Json = None,
    plot: Plot = None,
    settings: SettingsFile = None,
    autoscale: Autoscale = None,
    steps: Steps = None,
    step_s: StepS = None,
    begin: Begin = 0.0,
    tokens: Tokens = "1000,200",
    least: Least = 1,
    most: Most = None,
    start: Start = None,
    boot_s: Boot = 120.0,
    gpus: Gpus = 1,
    waiting_room: Room = 1024,
) -> None:
    """Read the options, run all simulations, and show what came of them. What `--help` says is `HELP`."""
    from nebula_simulate.fleet import Fleet, parameters
    from nebula_simulate.runs import Setup, runs
    from nebula_simulate.scaling.command import Options
    from nebula_simulate.traces import guess

    _check_writable(out for out in (json_out, plot) if out)
    if autoscale:
        _check_scaled(strategy, model)
        options = Options(
            trace=trace, trace_format=trace_format, pattern=_split(steps or ()), step_s=step_s, begin_s=begin, duration_s=duration,
            load=_loads(load or ["1"])[0], tokens=tokens, least=least, most=most, start=start, boot_s=boot_s, slo_s=slo_ttft, gpus=gpus,
            room=waiting_room, kv_tokens=kv_tokens, parameters=parameters(model, engine or ()), tables=_tables(settings),
        )  # fmt: skip
        _scale(_split(autoscale), options, json_out, plot)
        return
    trace = _named(trace, trace_format, steps)
    setup = Setup(
        trace=trace,
        trace_format=trace_format or guess(trace),
        fleet=Fleet(replicas, model, kv_tokens, parameters(model, engine or ())),
        gateways=gateways,
        event_delay_s=event_delay,
        clients=sessions or 8 * replicas,
        duration_s=duration,
        distinct=distinct,
        slo_ttft_s=slo_ttft,
        tables=_tables(settings),
    )
    names = list(dict.fromkeys(_split(strategy or ["prefix,least_pending,round_robin"])))
    figures = _watch(setup, runs(names, _loads(load or ["1"]), seeds), jobs or os.cpu_count() or 1)
    _show(figures, names, setup, json_out, plot)


def _check_scaled(strategy: list[str] | None, model: str) -> None:
    from nebula_simulate.errors import SimulationError

    if strategy or model != "steps":
        what = "requests go to the replica that has the fewest, and engines are of the model steps"
        raise SimulationError(f"--autoscale: {what}; leave out --strategy and --model")


def _named(trace: Path | None, trace_format: str | None, steps: list[str] | None) -> Path:
    from nebula_simulate.errors import SimulationError

    if trace is None or trace_format == "servegen" or steps:
        raise SimulationError("name the requests to replay with --trace FILE; a servegen mix and --steps are for --autoscale")
    return trace


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _loads(values: Iterable[str]) -> list[float]:
    from nebula_simulate.errors import SimulationError

    found = []
    for text in _split(values):
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


def _check_writable(outs: Iterable[Path]) -> None:
    """Better told now than after an hour."""
    from nebula_simulate.errors import SimulationError

    for out in outs:
        if str(out) != "-" and (out.is_dir() or not out.absolute().parent.is_dir()):
            raise SimulationError(f"{out}: there is no such folder, or it is one itself; name a file to write")


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
        _write(plot, page(rows, compared, " ".join(sys.argv[1:])))
    if json_out and str(json_out) != "-":
        _write(json_out, json.dumps(document(rows, compared), indent=2) + "\n")
    if str(json_out) == "-":
        print_json(document(rows, compared))
    else:
        stdout().print(table(rows, compared))


def _show(figures: dict[Run, Figures], names: list[str], setup: Setup, json_out: Path | None, plot: Path | None) -> None:
    from nebula_core.cli.output import print_json, stdout
    from nebula_simulate.results import document, rows
    from nebula_simulate.table import table

    found = rows(figures, names)
    if plot:
        _write(plot, _page(found, setup))
    if json_out and str(json_out) != "-":
        _write(json_out, json.dumps(document(found, setup), indent=2) + "\n")
    if str(json_out) == "-":
        print_json(document(found, setup))
    else:
        stdout().print(table(found, setup))


def _page(found: list[Row], setup: Setup) -> str:
    from nebula_simulate.page import page

    return page(found, setup, " ".join(sys.argv[1:]))


def _write(path: Path, text: str) -> None:
    from nebula_simulate.errors import SimulationError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error.strerror}") from error
