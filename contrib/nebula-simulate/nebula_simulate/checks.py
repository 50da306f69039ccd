"""What is refused before anything is simulated: options that would count for nothing, lists of nothing, files that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import typer

from nebula_simulate.errors import SimulationError

ROUTED = ("strategy", "model", "replicas", "sessions", "distinct", "gateways", "event_delay", "seeds", "jobs")
"""Parameters that only a fleet of a fixed size has: one that is scaled sends each request to the replica that has the fewest."""
SCALED = ("steps", "step_s", "begin", "tokens", "least", "most", "start", "boot_s", "gpus", "waiting_room")
"""Parameters that count with --autoscale alone."""
REPLAYED = ("trace", "trace_format", "begin", "duration")
"""Parameters of a load that comes from a file, and not of --steps."""


def check_options(context: typer.Context) -> None:
    """Raise `SimulationError` for a list that names nothing, and for options that were given and would change nothing."""
    options = {param.name: param.opts[0] for param in context.command.params if param.name and given(context, param.name)}
    for name in ("strategy", "load", "autoscale", "steps"):
        if name in options and not names(context.params[name]):
            raise SimulationError(f"{options[name]}: names nothing; give one, or several with commas between them")
    if "autoscale" not in options:
        _refuse(options, SCALED, "counts with --autoscale alone; name a policy, as in --autoscale slo, or leave it out")
        return
    _refuse(options, ROUTED, "does not count with --autoscale; leave it out")
    if len(names(context.params["load"] or ())) > 1:
        raise SimulationError("--load: with --autoscale there is one at a time; run it for each")
    if "steps" in options:
        _refuse(options, REPLAYED, "does not count with --steps, which say what is asked and when; leave one of the two out")
    else:
        _refuse(options, ("step_s",), "counts with --steps alone; leave it out")


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, were it with the value that it has anyway."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _refuse(options: dict[str, str], parameters: Collection[str], why: str) -> None:
    for name, option in options.items():
        if name in parameters:
            raise SimulationError(f"{option}: {why}")


def names(values: Iterable[str]) -> list[str]:
    """The parts of an option that may be repeated, and may hold commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def check_outs(json_out: Path | None, plot: Path | None) -> None:
    """Raise `SimulationError` for a file that cannot be written: better told now than after an hour."""
    if plot is not None and str(plot) == "-":
        raise SimulationError("--plot -: a page does not go to standard output; name a file to write")
    outs = {"--json": json_out, "--plot": plot}
    files = {option: out for option, out in outs.items() if out is not None and str(out) != "-"}
    for option, out in files.items():
        if out.is_dir() or not out.absolute().parent.is_dir():
            raise SimulationError(f"{option} {out}: there is no such folder, or it is one itself; name a file to write")
        if not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
            raise SimulationError(f"{option} {out}: may not be written; name another file")
    if len(files) == 2 and len({out.resolve() for out in files.values()}) == 1:
        raise SimulationError(f"--json and --plot: both name {plot}; name two files")
