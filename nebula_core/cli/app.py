"""The `nebula` program: its commands on one screen, those that plugins add, and how it ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nebula_core import compiled
from nebula_core.cli import apply, chat, config, explain, extensions, models, nodes, plugins, serve, status
from nebula_core.cli.output import say_error
from nebula_core.errors import NebulaError


class Commands(TyperGroup):
    """The core's commands, and the plugins', which are imported only when a listing or an unknown name asks for them."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name."""
        if cmd_name not in self.commands:
            extensions.add_commands(self)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        extensions.add_commands(self)
        return super().list_commands(ctx)


def make_app() -> typer.Typer:
    """The command line of the core, complete but for what plugins add."""
    app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, rich_markup_mode="rich")
    app.callback(epilog="First steps: [bold]nebula up[/], then [bold]nebula status[/] in another terminal.")(_nebula)
    _add(app, serve.up, "Serve", "nebula up --settings lab.toml")
    _add(app, serve.gateway, "Serve", "nebula gateway --settings fleet.toml")
    _add(app, serve.scheduler, "Serve", "nebula scheduler --settings fleet.toml")
    _add(app, serve.node, "Serve", "nebula node --settings fleet.toml")
    _add(app, status.status, "Operate", "nebula status --watch")
    _add(app, apply.apply, "Operate", "nebula apply lab.toml")
    app.add_typer(_models(), name="models", rich_help_panel="Operate")
    app.add_typer(_nodes(), name="nodes", rich_help_panel="Operate")
    _add(app, chat.chat, "Use", 'nebula chat smollm2 "Why is the sky blue?"')
    _add(app, explain.explain, "Inspect", "nebula explain req-9f86d081884c7d65-2a")
    _add(app, plugins.plugins, "Inspect", "nebula plugins")
    _add(app, config.config, "Inspect", "nebula config --settings lab.toml")
    return app


def main() -> None:
    """Run the command line. Exit code 1 with one message for what Nebula refuses, 2 for wrong usage, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?" rather than a traceback
    try:
        make_app()(prog_name="nebula")
    except NebulaError as error:
        _refuse([error])
    except ExceptionGroup as group:
        if group.split(NebulaError)[1] is not None:
            raise  # something else went wrong too, which is a bug
        _refuse(_leaves(group))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _flush()


def _models() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help="List, load, change, scale and unload models.", epilog=_example("nebula models list"))
    _add(group, models.list_, None, "nebula models list")
    _add(group, models.load, None, "nebula models load tiny --engine llamacpp --source tiny.gguf --set threads=2")
    _add(group, models.unload, None, "nebula models unload tiny")
    _add(group, models.scale, None, "nebula models scale tiny --min 1 --max 4")
    _add(group, models.rollback, None, "nebula models rollback tiny")
    return group


def _nodes() -> typer.Typer:
    group = typer.Typer(invoke_without_command=True, epilog=_example("nebula nodes"))
    group.callback()(nodes.nodes)
    _add(group, nodes.list_, None, "nebula nodes list --json")
    _add(group, nodes.cordon, None, "nebula nodes cordon gpu-7")
    _add(group, nodes.drain, None, "nebula nodes drain gpu-7 gpu-8 --timeout 600")
    _add(group, nodes.uncordon, None, "nebula nodes uncordon gpu-7 gpu-8")
    _add(group, nodes.forget, None, "nebula nodes forget gpu-7")
    return group


def _add(app: typer.Typer, command: Callable[..., None], panel: str | None, example: str) -> None:
    app.command(command.__name__.rstrip("_"), rich_help_panel=panel, epilog=_example(example))(command)


def _example(line: str) -> str:
    return f"Example: [bold]{line}[/]"


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"nebula {version('nebula-serving')} ({compiled.how()})")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)]


def _nebula(version: Version = False) -> None:
    """Serve large language models on your own machines."""


def _refuse(errors: Iterable[BaseException]) -> None:
    for message in dict.fromkeys(map(str, errors)):
        say_error(message)
    sys.exit(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _flush() -> None:
    """Write what is left; a reader that has gone away (`nebula status | head -1`) is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
