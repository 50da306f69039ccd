"""`nebula simulate`: replays traces of requests through the routing strategies that serve, on simulated engines, in virtual time."""

from __future__ import annotations

import typer

from nebula_core import hookimpl

EXAMPLES = (
    "nebula simulate --trace conversation_trace.jsonl --replicas 8 --load 0.5,1,2 --plot fleet.html",
    "nebula simulate --trace AzureLLMInferenceTrace_conv.csv --load 5 --autoscale slo,fixed,clairvoyant --boot-s 90 --plot scaled.html",
    "nebula simulate --trace agents.jsonl.zst --sessions 40 --strategy prefix,sglang --json fleet.json",
)


@hookimpl
def nebula_add_cli(cli: typer.Typer) -> None:
    """Add `nebula simulate`."""
    from nebula_simulate.command import HELP, simulate

    epilog = "Examples:\n\n" + "\n\n".join(f"[bold]{line}[/]" for line in EXAMPLES)
    cli.command("simulate", rich_help_panel="Inspect", help=HELP, epilog=epilog)(simulate)
