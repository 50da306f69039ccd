"""The interfaces that plugins implement: a small abstract class per kind, with a default for whatever may have one.

A method added later gets a default too, so that it breaks nobody. Each interface has a contract class in `nebula_core.testing`
that every implementation's tests inherit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from nebula_core.metrics import Snapshot
from nebula_core.types import EndpointStats, GpuStatus, ModelRequest, ReplicaSpec

if TYPE_CHECKING:
    from nebula_core.router.candidate import Candidate, Pick, RouteEvent, RouteRequest

# --- routing ------------------------------------------------------------------------------------------------------------------


class Considered(msgspec.Struct, frozen=True):
    """A candidate as it looked to a strategy when that decided."""

    replica_id: str
    figures: dict[str, float] = {}
    """What it was weighed by, the deciding ones first. A name ends with its unit (`wait_s`, `cached_bytes`), or it is a plain number."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of a strategy, for an operator who asks why."""

    request_id: str
    model_uid: str
    at: float
    """Monotonic seconds of the gateway that decided."""
    picked: str
    """The `replica_id` that was chosen."""
    reason: str
    """That of the `Pick`."""
    why: str = ""
    """The same in words."""
    figures: dict[str, float] = {}
    """What is known of the request itself, named as those of candidates."""
    candidates: tuple[Considered, ...] = ()
    """The best first."""
    strategy: str = ""
    """Name of the strategy; the router fills it in."""


class Strategy(ABC):
    """Picks one replica for a request. Called on the request path: no I/O, no waiting, no work that grows with past traffic."""

    signals: tuple[str, ...] = ()
    """Fields of `EndpointStats` that it cannot do without: unless one of them is known, `select` returns `None`. Empty: it needs none."""
    signals_of: Literal["every", "any"] = "every"
    """Of which candidates: of every one the same field, or of any of them."""
    explains: int = 0
    """How many of its last decisions `explain` knows, in each gateway worker; 0: it explains none."""

    @abstractmethod
    def select(self, request: RouteRequest, candidates: Sequence[Candidate]) -> Pick | None:
        """Choose among `candidates` (never empty, all of the request's model), or `None` to leave it to `[router] fallback`."""

    def observe(self, event: RouteEvent) -> None:
        """Learn what became of requests, this gateway's and the others': charged, first token, finished, failed, replica gone."""
        return

    def explain(self, request_id: str) -> Sequence[Explanation]:
        """Its decisions on a request, as far as it still knows them, the first one first: a retry is a decision of its own.

        Called when an operator asks, in the loop that carries requests: bounded, and no longer than some milliseconds.
        """
        return ()


Cause = Literal["refused", "reset", "timeout", "status", "no_candidate"]
"""Why an attempt failed: no connection, connection lost, engine silent, an answer with an error status, no replica to send it to."""


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a request that failed before any byte of an answer's body was sent to the client."""

    model_uid: str
    cause: Cause
    status: int = 0
    """With the cause `status`: the status that the engine answered with, 400 or above."""
    retry_after_s: float | None = None
    """With the cause `status`: when to come again by the engine's own word, in seconds from now."""
    before: tuple[Cause, ...] = ()
    """The causes for which this request has been tried again already, in order."""
    answered: int = 0
    """Requests for this model that this worker has answered since its start, whatever with."""


class Retry(ABC):
    """Decides whether a request whose attempt failed is tried again. Called only then, in a gateway worker: no I/O, no waiting.

    Whatever it says, an attempt goes to a replica that the request was not sent to yet (after `no_candidate`, also to one that
    refused the connection), and a request that two engines were lost with is failed.
    """

    @abstractmethod
    def pause(self, failed: FailedAttempt, now: float) -> float | None:
        """Seconds until the next attempt, 0 for one at once; `None`: there is none. `now` is in monotonic seconds."""


# --- engines ------------------------------------------------------------------------------------------------------------------


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


# --- health and signals -------------------------------------------------------------------------------------------------------

Fetch = Callable[[str], Awaitable[bytes]]
"""Reads a page of an engine by its path, bounded in time and size; raises `ScrapeError`."""


@dataclass(frozen=True)
class Health:
    """What a probe saw. `reason` says why it is not well."""

    ok: bool
    reason: str = ""


class Probe(ABC):
    """Tells whether an engine can serve."""

    @abstractmethod
    async def probe(self, url: str, path: str, api_key: str) -> Health:
        """Look at the engine at base URL `url`, once; never raises for what an engine may do. The caller sets the deadline."""


class Scraper(ABC):
    """Reads an engine's own account of its load. One object per replica, so that it may remember the last sample."""

    @abstractmethod
    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """Fetch what it needs and read it; what a page does not carry is `None`. Raises `ScrapeError`."""


# --- devices ------------------------------------------------------------------------------------------------------------------


class Devices(ABC):
    """Reads the GPUs of a machine."""

    @abstractmethod
    def read(self) -> tuple[GpuStatus, ...]:
        """Every GPU that engines may use, by index; empty where there is none. What one does not tell is `None`.

        Called in a thread at each heartbeat, never twice at once; it may block. It says itself, once, why there are none.
        """

    def environment(self, gpus: Sequence[GpuStatus]) -> Mapping[str, str]:
        """What an engine needs in its environment to see these GPUs and no others; with none, what this node may use at all."""
        return {}


# --- placement ----------------------------------------------------------------------------------------------------------------


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's replicas need of their place, beside the engine and the GPUs that their spec names.

    They are no part of the spec: a replica that still has what it needs is not started anew when they change.
    """

    gpu_memory_bytes: int | None = None
    """Free memory of each GPU; `None`: nobody knows."""
    is_learned: bool = False
    """Whether that is what an earlier run took, and not what the request declares."""
    node_labels: Mapping[str, str] = {}
    max_per_node: int | None = None


class FreeGpu(msgspec.Struct, frozen=True):
    """A GPU that a replica may be given."""

    index: int
    name: str = ""
    memory_total_bytes: int | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A node that a replica fits on."""

    node_id: str
    labels: Mapping[str, str] = {}
    free_gpus: tuple[FreeGpu, ...] = ()
    """Those with the memory it needs that no other replica holds, by index; at least as many as it needs."""
    gpus: int = 0
    """All GPUs of the node, those in use included."""
    cpus: int | None = None
    """Logical processors of the node."""
    replicas: int = 0
    """Replicas of all models on it."""
    siblings: int = 0
    """Those of them that are of this model."""

    @property
    def load(self) -> float:
        """Replicas per processor: what replicas without GPUs go by, of whose needs nothing else is known."""
        return self.replicas / (self.cpus or 1)

    def alike(self, count: int) -> tuple[FreeGpu, ...]:
        """So many of its free GPUs that differ as little as can be in memory, for one engine on all of them; the smallest such."""
        by_size = sorted(self.free_gpus, key=lambda gpu: (gpu.memory_total_bytes or 0, gpu.name, gpu.index))
        groups = [tuple(by_size[first : first + count]) for first in range(len(by_size) - count + 1)]
        return min(groups, key=lambda group: (_sizes_apart(group), group[0].memory_total_bytes or 0)) if count else ()

    def spot(self, count: int) -> Spot:
        """This node with those GPUs."""
        return Spot(self.node_id, tuple(sorted(gpu.index for gpu in self.alike(count))))


class Spot(msgspec.Struct, frozen=True):
    """A node and the GPUs on it that a replica gets."""

    node_id: str
    gpu_indexes: tuple[int, ...] = ()


def _sizes_apart(gpus: Sequence[FreeGpu]) -> int:
    return (gpus[-1].memory_total_bytes or 0) - (gpus[0].memory_total_bytes or 0)


class Placement(ABC):
    """Chooses among the places that a replica fits on. Pure: the same values in, the same answer out, for standby schedulers, too.

    What a replica needs (engine, labels, GPUs and their memory, `max_per_node`) is seen to before; so is that no GPU is given twice.
    """

    @abstractmethod
    def choose(self, spec: ReplicaSpec, needs: Needs, places: Sequence[Place], siblings: Sequence[Mapping[str, str]]) -> Spot | None:
        """A node of `places` and as many of its free GPUs as `spec.gpus`; `None`: it shall wait.

        `places` are never empty, and by node_id; of nodes that are alike in all but their name, only the first is among them.
        `siblings` are the labels of the nodes that this model's other replicas are on, one for each replica.
        """


# --- scaling ------------------------------------------------------------------------------------------------------------------


class ReplicaSignals(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that is to run, as the scheduler sees it; those that end are not among them."""

    replica_id: str
    ready: bool = False
    """Whether it serves, on a node that is up."""
    starting_s: float | None = None
    """For how long it has been starting; `None`: it is not, or has been for so long that it is not to be counted on."""
    stats: EndpointStats | None = None
    """What its engine says; `None`: not known."""


class ScalingSignals(msgspec.Struct, frozen=True, kw_only=True):
    """What a scaling policy goes by. What is not known is `None`, never 0; numbers that cannot be are not known either."""

    model_uid: str
    wanted: int
    """How many replicas there are to be now."""
    replicas: tuple[ReplicaSignals, ...] = ()
    in_flight: float | None = None
    """Requests of this model in flight or waiting, at all gateways."""
    waiting: float | None = None
    """Those of them that are held because no replica can take them."""
    arrivals_per_s: float | None = None
    """Requests that come, over the last half minute or so, at all gateways."""
    first_token_s: float | None = None
    """Time to the first token that 99 of 100 requests stayed below lately, at the gateway where it was longest."""
    first_token_target_s: float | None = None
    """What the model request says that time shall be; `None`: nothing."""
    boot_s: float | None = None
    """Time that a replica takes until it is ready, as learned."""
    since_change_s: float | None = None
    """Time since `wanted` last changed; `None`: it never did."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas a policy would have."""

    replicas: int | None
    """`None`: it cannot tell, so that nothing changes."""
    reason: str
    """Why, in words for an operator, with the figures."""
    inputs: dict[str, float | None] = {}
    """The figures that it went by, by name."""
    memory: dict[str, Any] = {}
    """What it wants to be handed with the next signals: plain JSON, a few kilobytes at most."""


class ScalingPolicy(ABC):
    """Says how many replicas a model's load asks for. Pure: all that it remembers is in `memory`, which outlives the process.

    The core keeps its proposals within `min_replicas` and `max_replicas`, bounded steps and cooldowns. It is asked every few seconds.
    """

    @abstractmethod
    def propose(self, signals: ScalingSignals, memory: Mapping[str, Any], now: float) -> Proposal:
        """`memory` is that of its last proposal for this model, as JSON gave it back; empty at first.

        `now` is in seconds of a clock that never goes back and outlives changes of leader. Where a signal is unknown it must propose no
        fewer than `signals.wanted`; replicas that are starting count as what they will be.
        """


# --- metrics ------------------------------------------------------------------------------------------------------------------


class Exporter(ABC):
    """Turns the metrics of a control process and its workers into a page that others read."""

    path: str = "/metrics"
    """Where the admin port serves the page, to anybody: metrics hold no secrets."""

    @abstractmethod
    def page(self, snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
        """`(content type, body)` of all series in `snapshot`; `accept` is the reader's `Accept` header, "" if it sent none.

        Called in a thread, never twice at once.
        """


# --- store --------------------------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True):
    """A key as it stands. Revisions count the store's writes, all keys together."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    leased: bool = False


class Listing(msgspec.Struct, frozen=True):
    """All entries under a prefix, by key, as they stood at `revision`."""

    entries: tuple[Entry, ...]
    revision: int


class Event(msgspec.Struct, frozen=True):
    """A key was written (`entry` set) or is gone (`entry` is `None`)."""

    key: str
    entry: Entry | None


class Batch(msgspec.Struct, frozen=True):
    """All events of a watch up to and including `revision`; a transaction is never torn apart."""

    revision: int
    events: tuple[Event, ...]


class Put(msgspec.Struct, frozen=True):
    """Write a key, under a lease if one is given."""

    key: str
    value: bytes
    lease: str | None = None


class Delete(msgspec.Struct, frozen=True):
    """Delete a key; no error if it is not there."""

    key: str


class Unchanged(msgspec.Struct, frozen=True):
    """Holds while the key's `mod_revision` is this; 0: while the key does not exist."""

    key: str
    mod_revision: int


Write = Put | Delete

MAX_OPERATIONS = 100
"""A transaction has at most so many writes, and at most so many conditions: etcd as it comes refuses more than 128 of either."""


def check_transaction(writes: Sequence[Write], conditions: Sequence[Unchanged]) -> None:
    """Raise `ValueError` for what no store accepts, be it that of one machine or of a fleet."""
    keys = [write.key for write in writes]
    for count, what in ((len(keys), "writes"), (len(conditions), "conditions")):
        if count > MAX_OPERATIONS:
            raise ValueError(f"a transaction of {count} {what}: {MAX_OPERATIONS} are allowed")
    if not all(key.encode() for key in keys):  # raises a ValueError, too, for text that no file can hold
        raise ValueError("a key may not be empty")
    if len(set(keys)) < len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"written twice in one transaction: {', '.join(twice)}")


class Store(ABC):
    """The control plane's state: keys with values, revisions, leases, watches and transactions over several keys.

    Every method may raise `StoreUnavailable`. An object is opened and closed as an async context manager by whoever composes.
    """

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    @abstractmethod
    async def get(self, key: str) -> Entry | None:
        """The entry, or `None`."""

    @abstractmethod
    async def list(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, and the revision this is true at."""

    @abstractmethod
    async def transact(self, writes: Sequence[Write], conditions: Sequence[Unchanged] = ()) -> int | None:
        """Apply all writes as one revision if all conditions hold, and return it; else change nothing and return `None`.

        Raises `ValueError` for what `check_transaction` refuses: more than `MAX_OPERATIONS` writes or conditions, or a key written
        twice. Raises `LeaseLost` if a lease it writes under has ended.
        """

    @abstractmethod
    def watch(self, prefix: str, after: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Everything that happens under `prefix` after revision `after`, in order, nothing left out.

        The iterator raises `Compacted` if that history is no longer kept, `StoreUnavailable` if the connection is lost.
        """

    @abstractmethod
    async def grant(self, ttl_s: float) -> str:
        """A new lease, which ends unless it is kept alive every `ttl_s` seconds; its keys are deleted with it."""

    @abstractmethod
    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises `LeaseLost` if it has ended."""

    @abstractmethod
    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys; no error if it has ended."""

    async def compact(self) -> None:
        """Forget history that is older than what the store promises its watches. The leading scheduler calls this every now and then."""
        return
