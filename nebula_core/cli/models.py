"""`nebula models`: listing, loading, unloading and scaling models of a running Nebula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from nebula_core.cli.options import AsJson, SettingsFile, admin_of, settings_of
from nebula_core.cli.output import print_json, stdout

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its model_uid, such as Qwen/Qwen3-8B.")]
Replicas = Annotated[int, typer.Argument(min=0, max=10_000, help="How many replicas shall run.")]
Engine = Annotated[str, typer.Option(metavar="NAME", help="Engine that runs it; `nebula plugins` lists them.")]
Source = Annotated[str | None, typer.Option(metavar="TEXT", help="What the engine loads, such as a path.")]
Count = Annotated[int | None, typer.Option("--replicas", min=0, max=10_000, help="How many replicas shall run; 1 if not given.")]
Alias = Annotated[list[str] | None, typer.Option("--alias", metavar="NAME", help="A further name for clients; may be repeated.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the engine or the model; may be repeated.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


def list_(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """List the models, their states and replicas."""
    from nebula_core.cli.status_view import model_table

    with admin_of(settings_of(settings)) as client:
        models = client.models()
    if as_json:
        print_json(models)
    else:
        stdout().print(model_table(models))


def load(
    model: Model,
    engine: Engine,
    source: Source = None,
    replicas: Count = None,
    alias: Alias = None,
    assignments: Set = None,
    wait: Wait = True,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Load a model, or change one that is loaded."""
    from nebula_core.cli import progress, waiting

    asked = {"engine": engine, "replicas": replicas, "source": source, "aliases": alias}
    body = {key: value for key, value in asked.items() if value is not None} | _keys(assignments or ())
    with admin_of(settings_of(settings)) as client:
        earlier = waiting.starts(waiting.find(client, model))
        answer: Any = client.load(model, body)
        if wait:
            with progress.shown(aside=as_json) as shown:
                answer = waiting.until_ready(client, model, earlier, shown)
    _tell(as_json, answer, f"Try: nebula chat {model}" if wait else f"{answer['change']}: `nebula status` shows how it gets on")


def unload(model: Model, wait: Wait = True, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Unload a model: its running requests finish, then its replicas stop."""
    from nebula_core.cli import progress, waiting

    with admin_of(settings_of(settings)) as client:
        client.unload(model)
        if wait:
            with progress.shown(aside=as_json) as shown:
                waiting.until_gone(client, model, shown)
    _tell(as_json, {"model_uid": model, "unloaded": wait}, f"{model} is {'unloaded' if wait else 'being unloaded'}")


def scale(model: Model, replicas: Replicas, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Set how many replicas of a model shall run."""
    with admin_of(settings_of(settings)) as client:
        answer = client.scale(model, replicas)
    _tell(as_json, answer, f"{model} shall have {replicas} replicas: `nebula status` shows how it gets on")


def _keys(assignments: Sequence[str]) -> dict[str, Any]:
    from nebula_core.settings import parse_value

    keys = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f'"{assignment}" is not KEY=VALUE', param_hint="--set")
        keys[key.strip()] = parse_value(value)
    return keys


def _tell(as_json: bool, document: Any, sentence: str) -> None:
    if as_json:
        print_json(document)
    else:
        stdout().print(Text(sentence))
