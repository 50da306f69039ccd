"""`nebula config`: the settings in force and the files they come from, with secrets masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from nebula_core.cli import toml
from nebula_core.cli.options import AsJson, SettingsFile, settings_of
from nebula_core.cli.output import print_json, stdout
from nebula_core.masks import mask, secrets_in

if TYPE_CHECKING:
    from nebula_core.settings import Settings


def config(settings: SettingsFile = None, as_json: AsJson = False) -> None:
    """Show the settings in force, secrets masked, and check them."""
    from nebula_core.app import load_plugins

    in_force = settings_of(settings)
    values = mask(_values(in_force), secrets_in(in_force.files))
    if as_json:
        print_json({"files": [str(file) for file in in_force.files], "settings": values})
    else:
        _print(stdout(), in_force.files, values)
    load_plugins(in_force)  # raises what would stop a start: an unknown name, a misspelt key in a plugin's table


def _values(settings: Settings) -> dict[str, Any]:
    values = settings.model_dump(mode="json", exclude={"files", "plugin_tables"}, exclude_none=True)
    return {**values, **settings.plugin_tables}


def _print(console: Console, files: tuple[Path, ...], values: Mapping[str, Any]) -> None:
    origin = ", ".join(map(str, files)) or "no file: the defaults"
    console.print(Text(f"# from {origin}; variables NEBULA_TABLE__KEY win over it", style="dim"))
    for line in _lines(values):
        console.print(line)


def _lines(values: Mapping[str, Any]) -> Iterator[Text]:
    for key, value in values.items():
        if not _is_table(value):
            yield _pair(key, value)
    for key, value in values.items():
        for table in value if isinstance(value, list) else [value]:
            if isinstance(table, dict):
                yield Text(f"\n[[{key}]]" if isinstance(value, list) else f"\n[{key}]", style="bold")
                yield from (_pair(inner, content) for inner, content in table.items())


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _pair(key: str, value: Any) -> Text:
    return Text.assemble((toml.key(key), "cyan"), " = ", toml.value(value))
