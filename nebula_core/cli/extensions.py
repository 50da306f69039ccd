"""What the installed plugins bring, looked at one by one, so that a broken one does not hide the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import typer
from typer.core import TyperGroup

from nebula_core.cli.options import settings_of
from nebula_core.cli.output import say_warning
from nebula_core.errors import PluginError, SettingsError
from nebula_core.plugins import GROUP, PluginInfo, Plugins, load, way_out


@dataclass(frozen=True)
class Found:
    """An installed plugin: loaded, disabled, or broken (`loaded` is `None`, and `info.note` says why)."""

    info: PluginInfo
    loaded: Plugins | None

    @property
    def state(self) -> str:
        """`enabled`, `disabled` or `broken`."""
        if self.loaded is None:
            return "broken"
        return "enabled" if self.info.enabled else "disabled"


def survey(disabled: Collection[str]) -> list[Found]:
    """Every installed plugin by name, each loaded by itself."""
    return [_look(point, disabled) for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]


def add_commands(group: TyperGroup) -> None:
    """Let every enabled plugin add its commands to `group`; one that cannot is warned about and left out."""
    for found in survey(_disabled()):
        if found.loaded is None:
            say_warning(found.info.note)
        elif "nebula_add_cli" in found.info.provides:
            _add_commands_of(found, group)


def _look(point: EntryPoint, disabled: Collection[str]) -> Found:
    try:
        loaded = load({point.name} & set(disabled), [point])
    except PluginError as error:
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
        return Found(PluginInfo(point.name, distribution, version, False, str(error), ()), None)
    return Found(loaded.infos[0], loaded)


def _add_commands_of(found: Found, group: TyperGroup) -> None:
    assert found.loaded is not None
    cli = typer.Typer()
    try:
        found.loaded.hook.nebula_add_cli(cli=cli)
        added = typer.main.get_group(cli).commands
    except Exception as error:  # noqa: BLE001 - one plugin's mistake shall not take away the other commands
        name = found.info.name
        say_warning(f'the plugin "{name}" failed to add its commands: {type(error).__name__}: {error}; {way_out(name)}')
        return
    for name, command in added.items():
        group.commands.setdefault(name, command)


def _disabled() -> tuple[str, ...]:
    """The plugins that the settings leave out; settings that cannot be read are the business of the command that needs them."""
    try:
        return settings_of(None).plugins.disabled
    except SettingsError:
        return ()
