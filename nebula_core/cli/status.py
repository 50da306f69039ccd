"""`nebula status`: what is running, and why something is not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nebula_core.cli.options import AsJson, SettingsFile, admin_of, settings_of
from nebula_core.cli.output import print_json, stdout
from nebula_core.errors import AdminError

if TYPE_CHECKING:
    from nebula_core.admin.client import AdminClient

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second until Ctrl-C.")]
PERIOD_S = 1.0


def status(as_json: AsJson = False, watch: Watch = False, settings: SettingsFile = None) -> None:
    """Show models, replicas, nodes and gateways, and why something is not ready."""
    if watch and as_json:
        raise typer.BadParameter("--json prints one document, --watch many: choose one of them")
    from nebula_core.cli.status_view import view

    with admin_of(settings_of(settings)) as client:
        if as_json:
            print_json(client.status())
        elif watch:
            _watch(client)
        else:
            stdout().print(view(client.status()))


def _watch(client: AdminClient) -> None:
    """Show it again and again; a Nebula that goes away is said, and may come back."""
    from rich.live import Live

    from nebula_core.cli.status_view import view

    with Live(view(client.status()), console=stdout(), auto_refresh=False) as live:
        while True:
            time.sleep(PERIOD_S)
            try:
                live.update(view(client.status()), refresh=True)
            except AdminError as error:
                live.update(Text(str(error), style="red"), refresh=True)
