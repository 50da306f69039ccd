"""The options of `nebula simulate`: their names, limits and what `--help` says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
Sessions = Annotated[int | None, typer.Option(min=1, help="Of weka or lmcache: sessions at once at load 1.", show_default="8 per replica")]
Duration = Annotated[
    float | None,
    typer.Option(
        min=1,
        metavar="SECONDS",
        help="How much of the trace. Sessions of weka and lmcache begin one by one within the first 600.",
        show_default="all; weka and lmcache: 3600",
    ),
]
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
