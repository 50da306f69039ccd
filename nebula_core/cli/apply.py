"""`nebula apply`: sending a file's models to a running Nebula."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nebula_core.cli.options import AsJson, SettingsFile, admin_of, settings_of
from nebula_core.cli.output import columns, print_json, stdout
from nebula_core.errors import SettingsError

File = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="File with the \\[\\[models]]; without it, the settings file."),
]


def apply(file: File = None, settings: SettingsFile = None, as_json: AsJson = False) -> None:
    """Send the models that a file declares to a running Nebula.

    It is found by --settings; without that option, by FILE itself.
    """
    declared = settings_of(file or settings)
    if not declared.models:
        raise SettingsError(f"{declared.files[0] if declared.files else 'the settings'}: there are no [[models]] to apply")
    with admin_of(settings_of(settings) if settings else declared) as client:
        result = client.apply([model.model_dump(mode="json", exclude_unset=True) for model in declared.models])
    if as_json:
        print_json(result)
    else:
        stdout().print(*columns([[change["model_uid"], change["change"]] for change in result["models"]]), sep="\n")
