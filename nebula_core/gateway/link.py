"""What the control process and a gateway worker say to each other over their Unix socket.

    worker → control: Hello, Applied, Charges, Waiting, Failures, Events, EventsLost, MetricsReport, Explanations
    control → worker: Welcome, ShareEvents, Table, Stats, ChargesElsewhere, Suspects, Events, Explain, Retire

Frames are a 4-byte big-endian length and a MessagePack body. Charges are counts, not differences; a new
connection begins with all of them. Replicas are named by `(model_uid, replica_id)`.
"""

from __future__ import annotations

import asyncio

import msgspec

from nebula_core.interfaces import Explanation
from nebula_core.router.events import Lost, RouteEvent
from nebula_core.router.routes import ModelRoute
from nebula_core.snapshots import Family
from nebula_core.types import EndpointStats

MAX_FRAME = 256 * 1024 * 1024


class FrameTooLarge(ConnectionError):
    """The other side announces more than it may send: it is none of ours."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker introduces itself, also when it finds a control process again."""

    pid: int
    slot: int
    generation: str
    """The control process that started it."""


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The worker routes by the table as of this store revision."""

    revision: int


class Charges(msgspec.Struct, frozen=True, tag=True):
    """The worker's requests in flight on the replicas whose count changed."""

    in_flight: tuple[tuple[str, str, int], ...]
    """(model_uid, replica_id, count)."""


class Waiting(msgspec.Struct, frozen=True, tag=True):
    """The worker's requests that wait for a replica, for the models where that changed."""

    models: tuple[tuple[str, int, int], ...]
    """(model_uid, held now, refused since the frame before)."""


class Failures(msgspec.Struct, frozen=True, tag=True):
    """What went wrong with replicas since the frame before."""

    replicas: tuple[Lost, ...]


class MetricsReport(msgspec.Struct, frozen=True, tag=True):
    """The worker's instruments now."""

    families: tuple[Family, ...]


class Explanations(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Explain`."""

    number: int
    decisions: tuple[Explanation, ...]


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """The control process's first frame: the settings in force, as JSON."""

    settings: bytes


class ShareEvents(msgspec.Struct, frozen=True, tag=True):
    """Whether there is another worker or gateway that learns from this worker's requests. At first there is none."""

    wanted: bool


class Table(msgspec.Struct, frozen=True, tag=True):
    """The routing table as of `revision`: whole, or the models that changed."""

    revision: int
    whole: bool
    models: tuple[ModelRoute, ...] = ()
    removed: tuple[str, ...] = ()


class Stats(msgspec.Struct, frozen=True, tag=True):
    """New samples of engines' signals."""

    samples: tuple[tuple[str, str, EndpointStats], ...]
    """(model_uid, replica_id, stats)."""


class ChargesElsewhere(msgspec.Struct, frozen=True, tag=True):
    """Requests in flight through other workers and gateways, for replicas whose count changed."""

    in_flight: tuple[tuple[str, str, int], ...]


class Suspects(msgspec.Struct, frozen=True, tag=True):
    """Replicas that another worker, of this gateway or another, could not connect to."""

    replicas: tuple[Lost, ...]


class Explain(msgspec.Struct, frozen=True, tag=True):
    """An operator asks why a request went where it went; the answer bears the same number."""

    number: int
    request_id: str


class Retire(msgspec.Struct, frozen=True, tag=True):
    """Accept nothing more, finish what runs within `drain_s` seconds, and exit."""

    drain_s: float
    hand_over: bool = False
    """First give the listening socket to the control process that says this."""


class Events(msgspec.Struct, frozen=True, tag=True):
    """What strategies may learn from requests: a worker's own on the way up, others' on the way down."""

    events: tuple[RouteEvent, ...]


class EventsLost(msgspec.Struct, frozen=True, tag=True):
    """The worker could not tell some of its events, the end of requests perhaps among them."""


Up = Hello | Applied | Charges | Waiting | Failures | Events | EventsLost | MetricsReport | Explanations
Down = Welcome | ShareEvents | Table | Stats | ChargesElsewhere | Suspects | Events | Explain | Retire

_encoder = msgspec.msgpack.Encoder()
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)


def write(writer: asyncio.StreamWriter, message: Up | Down) -> None:
    """Queue one message; the caller drains."""
    writer.write(frame(message))


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over a connection."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def read_up(reader: asyncio.StreamReader) -> Up:
    """The next message of a worker. Raises `asyncio.IncompleteReadError` at the end."""
    return _up.decode(await read_frame(reader))


async def read_down(reader: asyncio.StreamReader) -> Down:
    """The next message of the control process. Raises `asyncio.IncompleteReadError` at the end."""
    return _down.decode(await read_frame(reader))


async def read_frame(reader: asyncio.StreamReader, most: int = MAX_FRAME) -> bytes:
    """The body of the next message. Raises `FrameTooLarge` if it has more than `most` bytes, `asyncio.IncompleteReadError` at the end."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > most:
        raise FrameTooLarge(f"a frame of {length} bytes: the other side is not Nebula")
    return await reader.readexactly(length)
