"""`nebula nodes`: listing the nodes of a running Nebula, and telling it which to spare, to empty, or not to wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from nebula_core.cli.options import AsJson, SettingsFile, admin_of, settings_of
from nebula_core.cli.output import print_json, stdout
from nebula_core.errors import UnknownNode

if TYPE_CHECKING:
    from nebula_core.admin.client import AdminClient

Nodes = Annotated[list[str], typer.Argument(metavar="NODE", help="Their names, as `nebula nodes` shows them.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until they are empty.")]
Timeout = Annotated[float | None, typer.Option(metavar="S", min=0, help="Wait no longer than so many seconds.")]


def nodes(context: typer.Context, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """List nodes, cordon or drain them, or give missing ones up. Without a command: list."""
    if context.invoked_subcommand is None:
        list_(as_json, settings)
    elif as_json or settings:
        raise typer.BadParameter(f"options go behind the command: nebula nodes {context.invoked_subcommand} ...")


def list_(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """List the nodes: their GPUs, replicas and labels, and what is asked of them."""
    from nebula_core.cli.nodes_view import node_list

    with admin_of(settings_of(settings)) as client:
        found = client.nodes()
    if as_json:
        print_json(found)
    else:
        stdout().print(node_list(found))


def cordon(nodes: Nodes, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Have nodes get nothing new; what they have stays."""
    with _asked(nodes, settings, cordoned=True) as (_, answers):
        _tell(as_json, answers, f"{_names(nodes)} {_get(nodes)} nothing new until `nebula nodes uncordon`")


def uncordon(nodes: Nodes, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Have nodes get replicas again: takes back what cordon, drain and forget asked for."""
    with _asked(nodes, settings, cordoned=False) as (_, answers):
        _tell(as_json, answers, f"{_names(nodes)} {_get(nodes)} replicas again")


def drain(nodes: Nodes, wait: Wait = True, timeout: Timeout = None, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Empty nodes: their replicas move to others, as far as there is room, and they get nothing new."""
    from nebula_core.cli import draining, progress

    with _asked(nodes, settings, drained=True) as (client, answers):
        if wait:
            with progress.shown(aside=as_json) as shown:
                answers = draining.until_empty(client, nodes, timeout, shown)
    begun = f"{_names(nodes)} {_are(nodes)} being emptied: `nebula nodes` shows how far that is"
    _tell(as_json, answers, draining.outcome(answers) if wait else begun)


def forget(nodes: Nodes, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Give up nodes that are missing and will not come back: their replicas are replaced at once, however many nodes are gone."""
    with _asked(nodes, settings, given_up=True) as (_, answers):
        message = (
            f"{_names(nodes)} {'is' if len(nodes) == 1 else 'are'} given up, and {_get(nodes)} nothing new until `nebula nodes uncordon`"
        )
        _tell(as_json, answers, message)


@contextmanager
def _asked(nodes: Sequence[str], settings: Path | None, **changes: bool) -> Iterator[tuple[AdminClient, list[Any]]]:
    """A client that has asked this of all these nodes, or of none if one of them is not known."""
    with admin_of(settings_of(settings)) as client:
        known = [node["node_id"] for node in client.nodes()]
        if unknown := [name for name in nodes if name not in known]:
            raise UnknownNode(f'there is no node "{unknown[0]}" (nodes: {", ".join(known) or "none"})')
        yield client, [client.ask_node(name, **changes) for name in dict.fromkeys(nodes)]


def _names(nodes: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(nodes))


def _are(nodes: Sequence[str]) -> str:
    return "is" if len(set(nodes)) == 1 else "are"


def _get(nodes: Sequence[str]) -> str:
    return "gets" if len(set(nodes)) == 1 else "get"


def _tell(as_json: bool, documents: Sequence[Any], sentence: str) -> None:
    if as_json:
        print_json(documents)
    else:
        stdout().print(Text(sentence))
