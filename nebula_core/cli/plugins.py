"""`nebula plugins`: what is installed, what it provides, whether it is enabled, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from nebula_core.cli.extensions import Found, survey
from nebula_core.cli.options import AsJson, SettingsFile, settings_of
from nebula_core.cli.output import columns, print_json, say_warning, stdout
from nebula_core.plugins import load

if TYPE_CHECKING:
    from nebula_core.settings import Settings

STYLES = {"enabled": "green", "disabled": "dim", "broken": "red"}


def plugins(settings: SettingsFile = None, as_json: AsJson = False) -> None:
    """List the installed plugins; needs no running Nebula."""
    in_force = settings_of(settings)
    found = survey(in_force.plugins.disabled)
    if as_json:
        print_json({"plugins": [_document(one) for one in found]})
    else:
        _print(found)
    for table in unowned_tables(found, in_force):
        say_warning(f"[{table}] is the settings table of no installed plugin")


def unowned_tables(found: Sequence[Found], settings: Settings) -> list[str]:
    """Settings tables that no plugin reads. Raises what would stop a start, but for the broken plugins, which have their own line."""
    broken = {one.info.name for one in found if one.loaded is None}
    unowned = load({*settings.plugins.disabled, *broken}).check_tables(settings.plugin_tables)
    return [table for table in unowned if table not in broken]


def _document(found: Found) -> dict[str, Any]:
    info = found.info
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "state": found.state,
        "enabled": found.state == "enabled",
        "note": info.note,
        "provides": list(info.provides),
    }


def _print(found: Sequence[Found]) -> None:
    console = stdout()
    head: list[str | Text] = [Text(title, style="dim") for title in ("PLUGIN", "STATE", "VERSION", "PACKAGE", "PROVIDES")]
    title, *lines = columns([head, *map(_cells, found)])
    console.print(title)
    for one, line in zip(found, lines, strict=True):
        console.print(line)
        if one.info.note:
            console.print(Padding(Text(one.info.note, style="dim"), (0, 0, 0, 2), expand=False))


def _cells(found: Found) -> list[str | Text]:
    info = found.info
    provides = ", ".join(name.replace(":", " ") for name in info.provides)
    return [info.name, Text(found.state, STYLES[found.state]), info.version, info.distribution, provides]
