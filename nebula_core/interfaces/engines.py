"""`Engine` makes of a model request what a node starts; `Runtime` starts and ends it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from nebula_core.types import ModelRequest, ReplicaSpec


@dataclass(frozen=True)
class Launch:
    """A program to start. `env` is added to a minimal environment (PATH, HOME, locale), not to the daemon's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attach:
    """An engine that already runs somewhere: nothing is started or stopped."""

    url: str
    """Base URL without a trailing slash and without `/v1`."""
    api_key: str = ""


@dataclass(frozen=True)
class EngineAddress:
    """Where a node wants an engine to listen, and the key it shall ask for."""

    host: str
    port: int
    api_key: str


class Engine(ABC):
    """Knows one kind of inference server: what to launch for a model, and how to tell that it is well."""

    probe: str = "http"
    """Name of the probe that suits it."""
    scraper: str | None = None
    """Name of the scraper that reads its metrics; `None`: it has none."""
    health_path: str = "/health"
    """Path that answers 200 once the engine can serve."""

    @abstractmethod
    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """The replicas that this request asks for, at `request.replicas`; pure, no look at the machine.

        Raises `InvalidModelRequest` naming the key that is wrong.
        """

    def check(self, spec: ReplicaSpec) -> None:
        """Raise `LaunchError` if this machine lacks what `spec` needs (a file, a package), before anything is started."""
        return

    def scraper_for(self, spec: ReplicaSpec) -> str | None:
        """Name of the scraper that reads the metrics of this replica; `None`: it has none."""
        return self.scraper

    def health_path_for(self, spec: ReplicaSpec) -> str:
        """Path that answers 200 once this replica can serve."""
        return self.health_path

    @abstractmethod
    def launch(self, spec: ReplicaSpec, address: EngineAddress, gpu_indexes: tuple[int, ...]) -> Launch | Attach:
        """What to start for one replica, or where it already runs. Raises `LaunchError`."""


@dataclass(frozen=True)
class Exit:
    """How an engine ended. `code` is negative for a signal, as in `subprocess`; `None` where nobody could record it."""

    code: int | None


@dataclass(frozen=True)
class Handle:
    """A started engine, found again after a restart of the daemon: `name` is what it was started under, `pid` the engine's own."""

    name: str
    pid: int
    started: float
    """Seconds since boot at which its process started; with the pid it names the process beyond doubt."""
    note: bytes = b""
    """What the node asked to be kept with it."""


class Runtime(ABC):
    """How engines are run: as processes, as containers. What it starts outlives the daemon."""

    @abstractmethod
    async def start(self, name: str, launch: Launch, note: bytes) -> Handle:
        """Start `launch` under `name` (unique on the node, `[A-Za-z0-9._-]+`), keeping `note` with it. Raises `LaunchError`."""

    @abstractmethod
    async def running(self) -> list[Handle]:
        """Everything this runtime has running on this machine for this data folder, whoever started it. Forgets what ended meanwhile."""

    @abstractmethod
    async def wait(self, handle: Handle) -> Exit:
        """Wait for its end; also of one that an earlier daemon started."""

    @abstractmethod
    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """End it and all that it started: politely, after `grace_s` seconds by force. Its files, but for the log, are gone afterwards."""

    @abstractmethod
    async def last_lines(self, name: str, count: int) -> list[str]:
        """The last lines that `name` wrote, also after its end; empty where there are none."""

    def log_of(self, name: str) -> str:
        """Where an operator reads all that `name` wrote, such as the path of a file; empty: nowhere."""
        return ""
