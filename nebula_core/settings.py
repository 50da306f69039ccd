"""Settings: `settings.toml`, `.secrets.toml` beside it, and `NEBULA_TABLE__KEY` environment variables, as one frozen model.

This is the only module that imports dynaconf. It is a loader and nothing more: a fresh object is read into a plain dict, validated,
and forgotten; whoever needs other settings loads again and swaps one reference. Environment variables are read here and not by
dynaconf, which upper-cases keys that no file has and concatenates a list from the environment with the file's.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dynaconf import Dynaconf
from dynaconf.vendor.box.exceptions import BoxError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nebula_core.errors import SettingsError
from nebula_core.masks import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX = "NEBULA"
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
"""A label of a node, or its value: letters, digits, and `.`, `_`, `/`, `-` between them; 63 at most."""
SEARCH: tuple[Path, ...] = (Path("settings.toml"), Path("~/.config/nebula/settings.toml"), Path("/etc/nebula/settings.toml"))
"""Where settings are looked for if no file is named: the first that exists is taken; none is fine."""


class Table(BaseModel):
    """Base of the core's own settings tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySettings(Table):
    """`[gateway]`: the public port and its data-path workers."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=256)
    name: str = ""
    """Unique name of this gateway in the fleet; empty: the name kept in `data_dir/node.name`, and the port."""
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    connect_timeout_s: float = Field(2.0, gt=0)
    first_byte_timeout_s: float = Field(600.0, gt=0)
    """Longest wait for the first byte of an answer's body; a model may have its own."""
    idle_timeout_s: float = Field(120.0, gt=0)
    """Longest silence between two pieces of an answer."""
    retry: str = ""
    """Policy that says which failed attempts are made again; empty: the one that is installed."""
    wait_s: float = Field(50.0, ge=0)
    """How long a request may be held while its model has no replica that is ready, from its arrival on; 0: not at all."""
    wait_requests: int = Field(1000, ge=0)
    """So many may be held at a time, by each worker."""
    wait_bytes: int = Field(64 * 1024 * 1024, ge=0)
    """Bytes that their bodies may have together, in each worker."""
    keep_alive_s: float = Field(75.0, gt=0)
    """How long a client's idle connection is kept."""
    drain_s: float = Field(10.0, ge=0)
    """How long running requests may take to finish when the gateway stops."""
    cors_origins: tuple[str, ...] = ()
    """Origins that browsers may call from; `["*"]` for any; empty: none."""
    peers_host: str = "127.0.0.1"
    """Address of this machine at which the fleet's other gateways reach this one, to tell it what is in flight through them."""
    peers_port: int = Field(0, ge=0, le=65535)
    """Its port; 0: any that is free, for the store tells the others which."""

    @field_validator("peers_host")
    @classmethod
    def _can_be_dialled(cls, value: str) -> str:
        if value in ("", "*", "0.0.0.0", "::", "[::]"):
            raise ValueError("the other gateways are told this address, so name one of this machine's own instead of all of them")
        return value.strip("[]")


class AdminSettings(Table):
    """`[admin]`: the admin API of every role. All but `/health`, `/metrics` and the documentation needs the token, also on loopback."""

    host: str = "127.0.0.1"
    port: int = Field(8081, ge=0, le=65535)
    allowed_hosts: tuple[str, ...] = ()
    """Further `Host` names it answers to, beside its own address and localhost."""


class RouterSettings(Table):
    """`[router]`: how a replica is chosen."""

    strategy: str = "prefix"
    fallback: str = "least_pending"
    """Strategy that decides when the chosen one cannot."""


class StoreSettings(Table):
    """`[store]`: where the control plane's state lies."""

    use: str = "embedded"
    lease_s: float = Field(30.0, ge=1)
    """A node or gateway not heard of for this long counts as gone."""


class NodeSettings(Table):
    """`[node]`: the daemon that runs engines on this machine."""

    name: str = ""
    """Unique name of this node in the fleet; empty: the host name at its first start, kept in `data_dir/node.name`."""
    address: str = "127.0.0.1"
    """Address at which gateways reach this node's engines; they listen there."""
    labels: dict[Label, Label] = {}
    """What models choose nodes by with `node_labels`, such as a zone."""
    runtime: str = "process"
    devices: tuple[str, ...] = ()
    """What reads this machine's GPUs; empty: all that are installed."""
    heartbeat_s: float = Field(3.0, gt=0)
    probe_timeout_s: float = Field(2.0, gt=0)
    start_timeout_s: float = Field(600.0, gt=0)
    """How long an engine may take to load its model before it counts as failed."""
    stop_grace_s: float = Field(10.0, ge=0)
    """How long an engine may take to end by itself before it is killed."""
    drain_deadline_s: float = Field(120.0, ge=0)
    """How long running requests may keep a replica that is to be stopped."""
    engine_ports: tuple[int, int] = (18000, 18999)
    """First and last port that engines may be given."""


class SchedulerSettings(Table):
    """`[scheduler]`: the loop that turns model requests into placement plans."""

    reconcile_s: float = Field(30.0, gt=0)
    """Longest time between two passes; every relevant change causes one at once."""
    lost_after_s: float = Field(12.0, ge=0)
    """How long a node may be gone, once its lease has ended, before its replicas are replaced; a third of `[store] lease_s` at least."""
    placement: str = ""
    """Policy that chooses a replica's place; empty: binpack, or the one that is installed."""
    gpu_memory_margin: float = Field(0.1, ge=0, le=10)
    """Share that is added to the GPU memory a model's last run took, where its request declares none."""
    scaler: str = ""
    """Policy that scales models with `max_replicas`; empty: load, or the one that is installed."""
    scale_s: float = Field(10.0, gt=0)
    """How often it is asked."""
    scale_up_step: int = Field(4, ge=1)
    """Replicas that a model may gain at once; as many as it has, if that is more."""
    scale_up_pause_s: float = Field(15.0, ge=0)
    """Shortest time from one gain to the next."""
    scale_down_step: int = Field(1, ge=1)
    """Replicas that a model may lose at once; a quarter of what it has, if that is more."""
    scale_down_pause_s: float = Field(60.0, ge=0)
    """Shortest time from any change to the next loss."""


class PluginsSettings(Table):
    """`[plugins]`: which installed plugins are left out."""

    disabled: tuple[str, ...] = ()


class LogSettings(Table):
    """`[log]`."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class ModelSettings(BaseModel):
    """One `[[models]]` table. Keys beside the core's own belong to the engine, which validates them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model_uid: str = Field(min_length=1, max_length=256)
    engine: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    source: str | None = None
    replicas: int = Field(1, ge=0, le=10_000)
    min_replicas: int | None = Field(None, ge=0)
    max_replicas: int | None = Field(None, ge=0)
    scaler: str | None = Field(None, min_length=1)
    first_token_target_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    gpus_per_replica: int = Field(0, ge=0)
    gpu_memory_gib: float | None = Field(None, gt=0, le=1_000_000, allow_inf_nan=False)
    node_labels: dict[Label, Label] = {}
    max_per_node: int | None = Field(None, ge=1)
    strategy: str | None = None
    first_byte_timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> ModelSettings:
        if self.min_replicas is not None and self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})")
        return self

    @property
    def engine_args(self) -> dict[str, Any]:
        """The engine's own keys."""
        return dict(self.model_extra or {})


class Settings(Table):
    """All settings in force. Tables that are not the core's belong to plugins and are validated by them."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data_dir: Path = Path("~/.local/state/nebula")
    """Where state, logs, sockets and the admin token lie."""
    gateway: GatewaySettings = GatewaySettings()
    admin: AdminSettings = AdminSettings()
    router: RouterSettings = RouterSettings()
    store: StoreSettings = StoreSettings()
    node: NodeSettings = NodeSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    plugins: PluginsSettings = PluginsSettings()
    log: LogSettings = LogSettings()
    models: tuple[ModelSettings, ...] = ()
    plugin_tables: dict[str, dict[str, Any]] = {}
    """Plugin name → its table, not yet validated."""
    files: tuple[Path, ...] = ()
    """The files that these settings were read from."""

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("models")
    @classmethod
    def _names_are_unique(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        owner: dict[str, str] = {}
        for model in models:
            if model.model_uid in owner.values():
                raise ValueError(f'two [[models]] tables have the model_uid "{model.model_uid}": a model has one table')
            for name in (model.model_uid, *model.aliases):
                if name in owner:
                    raise ValueError(f'the name "{name}" is used by two models, "{owner[name]}" and "{model.model_uid}"')
                owner[name] = model.model_uid
        return models

    @property
    def node_name(self) -> str:
        """This node's name in the fleet; until `identity.named` has filled it in, as good a guess as there is."""
        return self.node.name or socket.gethostname()

    @property
    def gateway_name(self) -> str:
        """This gateway's name in the fleet; until `identity.named` has filled it in, as good a guess as there is."""
        return self.gateway.name or f"{socket.gethostname()}:{self.gateway.port}"


CORE_TABLES = frozenset(Settings.model_fields) - {"plugin_tables", "files"}


def load(file: Path | None = None, environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings file (or the first of `SEARCH`), its secrets and the environment. Raises `SettingsError`.

    `overrides` are dotted keys from the command line, such as `{"router.strategy": "prefix"}`; they win.
    """
    files = _files(file)
    values = _read(files)
    environment = _from_environment(os.environ if environ is None else environ)
    _apply(values, environment)
    _apply(values, {tuple(key.split(".")): value for key, value in (overrides or {}).items()})
    plugin_tables = {name: values.pop(name) for name in sorted(set(values) - CORE_TABLES)}
    where = str(files[0]) if files else "the environment"
    for name, table in plugin_tables.items():
        if not isinstance(table, dict):
            tables = ", ".join(sorted(CORE_TABLES))
            raise SettingsError(f'{where}: there is no key "{name}" at the top level (tables: {tables}, and one per plugin)')
    try:
        return Settings.model_validate({**values, "plugin_tables": plugin_tables, "files": files})
    except ValidationError as error:
        raise SettingsError(_explain(error, where, values, environment)) from error


def _files(file: Path | None) -> tuple[Path, ...]:
    if file is not None:
        if not file.is_file():
            raise SettingsError(f"there is no settings file {file}")
        main: Path | None = file
    else:
        main = next((path for path in map(Path.expanduser, SEARCH) if path.is_file()), None)
    if main is None:
        return ()
    secrets = main.parent / ".secrets.toml"
    return (main.absolute(), *([secrets.absolute()] if secrets.is_file() else []))


def _read(files: Sequence[Path]) -> dict[str, Any]:
    for file in files:
        try:
            tomllib.loads(file.read_text(encoding="utf-8"))  # dynaconf's own message lacks the file's name
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from error
    try:
        loaded = Dynaconf(settings_files=[str(file) for file in files], merge_enabled=True, core_loaders=["TOML"], loaders=[]).as_dict()
    except (ValueError, BoxError) as error:
        raise SettingsError(f"{files[0]} cannot be read: {error}") from error
    return {key.lower(): _plain(value) for key, value in loaded.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[tuple[str, ...], Any]:
    """`NEBULA_GATEWAY__PORT=9000` → `{("gateway", "port"): 9000}`; values are read as TOML, else taken as text."""
    found = {}
    for name, text in environ.items():
        path = name.removeprefix(f"{PREFIX}_").lower().split("__")
        if name.startswith(f"{PREFIX}_") and (len(path) > 1 or path == ["data_dir"]) and all(path):
            found[tuple(path)] = parse_value(text)
    return found


def parse_value(text: str) -> Any:
    """What `text` means as a TOML value; text that is none stands for itself, so that a name needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _apply(values: dict[str, Any], changes: Mapping[tuple[str, ...], Any]) -> None:
    for path, value in changes.items():
        table = values
        for part in path[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                raise SettingsError(f'{_variable(path)}: "{part}" is not a table')
            table = inner
        table[path[-1]] = value


def _plain(value: Any) -> Any:
    """Dynaconf's boxes as plain dicts and lists."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _explain(error: ValidationError, where: str, values: Mapping[str, Any], environment: Collection[tuple[str, ...]]) -> str:
    """What is wrong, one line per fault, each with the place it was set at."""
    lines = []
    for fault in error.errors():
        set_by_environment = next((path for path in environment if path == fault["loc"][: len(path)]), None)
        place = _variable(set_by_environment) if set_by_environment else where
        lines.append(f"{place}: {_fault(fault, values)}")
    return "\n".join(lines)


def _fault(fault: ErrorDetails, values: Mapping[str, Any]) -> str:
    table, model, keys = _place(fault["loc"], values)
    key = ".".join(map(str, keys))
    known = ", ".join(sorted(model.model_fields)) + (", and those of its engine" if model is ModelSettings else "")
    message = fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "extra_forbidden":
            return f'{table} has no key "{key}"{_meant(key, model)} (its keys: {known})'
        case "missing" if len(keys) == 1:
            return f'{table} lacks the key "{key}" (its keys: {known})'
        case "model_type" | "tuple_type" if not keys:
            return f"{table} is not a table"
        case "value_error":
            return f"{table} {key}: {message}" if key else f"{table}: {message}"
    return f"{table} {key}: {message}, got {shown(fault['input'], keys)}"


def _place(loc: tuple[int | str, ...], values: Mapping[str, Any]) -> tuple[str, type[BaseModel], tuple[int | str, ...]]:
    """A fault's table as it is written in the file, the model of that table, and the path below it."""
    match loc:
        case ("models", int(index), *rest):
            return _entry(values["models"], index), ModelSettings, tuple(rest)
        case ("models",):
            return "[[models]]", ModelSettings, ()
        case (str(table), *rest) if table in CORE_TABLES - {"data_dir"}:
            model = Settings.model_fields[table].annotation
            return f"[{table}]", model if isinstance(model, type) and issubclass(model, BaseModel) else Settings, tuple(rest)
    return "the top level:", Settings, loc


def _entry(models: Sequence[Any], index: int) -> str:
    """How to name one of the `[[models]]`: by its `model_uid` if it has one."""
    name = models[index].get("model_uid") if isinstance(models[index], dict) else None
    return f'[[models]] "{name}"' if name else f"[[models]] number {index + 1}"


def _meant(key: str, model: type[BaseModel]) -> str:
    close = get_close_matches(key, model.model_fields, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _variable(path: tuple[str, ...]) -> str:
    return f"{PREFIX}_{'__'.join(path).upper()}"
