"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nebula_core.admin.client import AdminClient
    from nebula_core.settings import Settings

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        "-s",
        metavar="FILE",
        help="Settings file. Without it: ./settings.toml, ~/.config/nebula/settings.toml or /etc/nebula/settings.toml.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def settings_of(file: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force; overrides that are `None` were not given. Raises `SettingsError`."""
    from nebula_core import settings  # dynaconf takes 0.2 s to import, which `--help` should not pay

    return settings.load(file, overrides={key: value for key, value in (overrides or {}).items() if value is not None})


def admin_of(settings: Settings) -> AdminClient:
    """A client of the admin API of the Nebula that these settings describe; use it as a context manager."""
    from nebula_core.admin.client import AdminClient  # as does httpx

    return AdminClient.from_settings(settings)
