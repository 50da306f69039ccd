"""`nebula explain`: why a request was sent where it was sent."""

from __future__ import annotations

from typing import Annotated

import typer

from nebula_core.cli.options import AsJson, SettingsFile, admin_of, settings_of
from nebula_core.cli.output import print_json, stdout

RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="What the answer's header x-request-id says.")]
AllReplicas = Annotated[bool, typer.Option("--all", "-a", help="Show every replica that was considered, not the first ten alone.")]


def explain(request_id: RequestId, every: AllReplicas = False, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Show which replicas were considered for a recent request, which one was picked, and why.

    Ask where the gateway that served the request runs. Which figures there are is up to the routing strategy, whose README says what
    they mean.
    """
    from nebula_core.cli.explain_view import view

    with admin_of(settings_of(settings)) as client:
        document = client.decisions(request_id)
    if as_json:
        print_json(document)
    else:
        stdout().print(view(document, every=every))
