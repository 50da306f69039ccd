"""The settings table `[store_etcd]`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from pydantic import Field, SecretStr, field_validator, model_validator

from nebula_core import PluginSettings, Provider

_ENDPOINT = re.compile(r"(?:(?P<scheme>https?)://)?(?P<address>(?:\[[0-9A-Fa-f:.%]+\]|[\w.-]+):(?P<port>\d{1,5}))/?")


class EtcdSettings(PluginSettings):
    """`[store_etcd]`: where etcd is, and as whom Nebula talks to it."""

    endpoints: tuple[str, ...] = Field(("http://127.0.0.1:2379",), min_length=1)
    """Client addresses of the members, `host:port` with `http://` or `https://` before it; one of them is used at a time."""
    prefix: str = Field("/nebula", pattern=r"^(/[^/\x00]+)*$")
    """What all keys of this Nebula begin with, so that one etcd serves several."""
    user: str = ""
    """The etcd user; empty if etcd asks for none."""
    password: SecretStr = SecretStr("")
    ca_cert: Path | None = None
    """PEM file of the authority that signed etcd's certificate; not set: those that the system trusts."""
    cert: Path | None = None
    """PEM file of the certificate that Nebula shows to etcd (mTLS)."""
    key: Path | None = None
    """PEM file of its private key."""
    timeout_s: float = Field(5.0, gt=0)
    """How long one member may take to answer."""
    history_s: float = Field(900.0, ge=1)
    """How much of the past is kept when etcd is compacted: a watch that was cut off for longer lists again."""

    @field_validator("endpoints")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in value:
            match = _ENDPOINT.fullmatch(endpoint)
            if not match:
                raise ValueError(f'"{endpoint}" is not of the form http://host:port or https://host:port')
            if not 0 < int(match["port"]) < 65536:
                raise ValueError(f'"{endpoint}" has no port that exists: they go from 1 to 65535')
        return value

    @field_validator("ca_cert", "cert", "key")
    @classmethod
    def _in_home(cls, value: Path | None) -> Path | None:
        return value and value.expanduser()

    @model_validator(mode="after")
    def _fit_together(self) -> EtcdSettings:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: set both or none")
        if bool(self.user) != bool(self.password.get_secret_value()):
            raise ValueError("user and password belong together: set both (the password in .secrets.toml) or none")
        schemes = {self._scheme(endpoint) for endpoint in self.endpoints}
        if len(schemes) > 1:
            raise ValueError("some endpoints are https:// and some are not; all members must speak TLS, or none")
        if "http" in schemes and (self.ca_cert or self.cert):
            raise ValueError("ca_cert, cert and key are for endpoints that begin with https://")
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._scheme(self.endpoints[0]) == "https"

    @property
    def addresses(self) -> list[str]:
        """`host:port` of every endpoint."""
        return [match["address"] for endpoint in self.endpoints if (match := _ENDPOINT.fullmatch(endpoint))]

    def _scheme(self, endpoint: str) -> str:
        """What stands before the address; where nothing does, certificates in the settings mean TLS."""
        match = _ENDPOINT.fullmatch(endpoint)
        given = match and match["scheme"]
        return given or ("https" if self.ca_cert or self.cert else "http")


def from_file(file: Path | None) -> EtcdSettings:
    """The table `[store_etcd]` of a settings file, and of the environment, without the user that it names: for whoever logs in as another.

    Raises `SettingsError`.
    """
    from nebula_core import plugins, settings  # dynaconf takes 0.2 s to import, and every command of `nebula` loads this module

    table = settings.load(file).plugin_tables.get("store_etcd", {})
    others = {key: value for key, value in table.items() if key not in ("user", "password")}
    provider = Provider(name="etcd", build=lambda _, __: None, settings_type=EtcdSettings)
    return cast("EtcdSettings", plugins.parse_table(plugins.Offer("store", provider, "store_etcd"), others))
