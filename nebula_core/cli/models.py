"""`nebula models`: listing, loading, changing, rolling back, scaling and unloading models of a running Nebula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from nebula_core.cli.options import AsJson, SettingsFile, admin_of, settings_of
from nebula_core.cli.output import print_json, stdout

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its model_uid, such as Qwen/Qwen3-8B.")]
Replicas = Annotated[
    int | None,
    typer.Argument(metavar="REPLICAS", min=0, max=10_000, help="How many replicas shall run; where load decides, how many from now on."),
]
Engine = Annotated[str, typer.Option(metavar="NAME", help="Engine that runs it; `nebula plugins` lists them.")]
Source = Annotated[str | None, typer.Option(metavar="TEXT", help="What the engine loads, such as a path.")]
Count = Annotated[int | None, typer.Option("--replicas", min=0, max=10_000, help="How many replicas shall run; 1 if not given.")]
Alias = Annotated[list[str] | None, typer.Option("--alias", metavar="NAME", help="A further name for clients; may be repeated.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the engine or the model; may be repeated.")]
Min = Annotated[int | None, typer.Option("--min", min=0, max=10_000, help="The fewest replicas that load may leave.")]
Max = Annotated[
    int | None, typer.Option("--max", min=0, max=10_000, help="The most replicas that load may ask for; without it load changes nothing.")
]
NoMin = Annotated[bool, typer.Option("--no-min", help="Take --min back: the fewest is one.")]
NoMax = Annotated[bool, typer.Option("--no-max", help="Take --max back: load changes nothing any more.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


def list_(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """List the models, their states, and how load scales them."""
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
    least: Min = None,
    most: Max = None,
    alias: Alias = None,
    assignments: Set = None,
    wait: Wait = True,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Load a model, or replace what is asked of one that is loaded: what is not given is as for a new one."""
    from nebula_core.cli import progress, waiting

    numbers = {"replicas": replicas, "min_replicas": least, "max_replicas": most}
    asked = {"engine": engine, **numbers, "source": source, "aliases": alias}
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


def scale(
    model: Model,
    replicas: Replicas = None,
    least: Min = None,
    no_min: NoMin = False,
    most: Max = None,
    no_max: NoMax = False,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Set how many replicas of a model shall run, or between which bounds load decides that."""
    bounds = {**_bound("min", least, no_min), **_bound("max", most, no_max)}
    if replicas is None and not bounds:
        raise typer.BadParameter("give a number of replicas, or --min, --max, --no-min or --no-max", param_hint="REPLICAS")
    with admin_of(settings_of(settings)) as client:
        answer = client.scale(model, replicas, **bounds)
    _tell(as_json, answer, f"{model} shall have {_numbers(answer['request'])}: `nebula status` shows how it gets on")


def rollback(model: Model, wait: Wait = True, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Take back the last change of a model's arguments; a second time brings it in again. How many replicas there are stays."""
    from nebula_core.cli import progress, waiting

    with admin_of(settings_of(settings)) as client:
        before = client.model(model)
        answer: Any = client.rollback(model)
        difference = _difference(before["request"], answer["request"])
        if wait:
            with progress.shown(aside=as_json) as shown:
                shown.step(f"{model} goes back: {difference}")
                answer = waiting.until_ready(client, model, waiting.starts(before), shown)
    _tell(as_json, answer, f"{model} is back" if wait else f"{model} goes back: {difference}; `nebula status` shows how it gets on")


def _bound(name: str, number: int | None, lifted: bool) -> dict[str, int | None]:
    if number is not None and lifted:
        raise typer.BadParameter(f"--{name} and --no-{name} contradict each other", param_hint=f"--no-{name}")
    return {f"{name}_replicas": number} if lifted or number is not None else {}


def _numbers(request: Mapping[str, Any]) -> str:
    """How many replicas are asked for, in words."""
    number, least, most = request["replicas"], request["min_replicas"], request["max_replicas"]
    if most is None:
        return f"{number} replica{'' if number == 1 else 's'}" + ("" if least is None else f", at least {least}")
    return f"{min(1, most) if least is None else least} to {most} replicas as load asks for, beginning with {number}"


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What two requests differ in, with what was and what is; where both show the same, they differ in what is masked."""
    old, new = ({**request, **request["engine_args"]} for request in (before, after))
    changed = (key for key in {**old, **new} if old.get(key) != new.get(key) and key not in ("engine_args", "rolled_back_from"))
    return ", ".join(f"{key} {_shown(old.get(key))} → {_shown(new.get(key))}" for key in changed) or "a secret, which is not shown"


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


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
