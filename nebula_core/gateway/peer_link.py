"""What gateways say to each other over TCP: who may speak, and what is said.

    dialler → listener: Hello               listener → dialler: Challenge
    dialler → listener: Answer, Report …

The listener publishes a random key with every start in its heartbeat in the store, and both sides prove to know it by a
MAC (HMAC-SHA256, RFC 2104) over a nonce of each; the key itself never leaves the store. So there is no further secret to hand out, to
keep and to change: whoever may read the store belongs to the fleet. What follows is neither encrypted nor signed: it holds
counts, names of replicas and hashes of prompts. A network on which strangers can alter connections needs a tunnel.

Frames are those of `link.py`, small until the other side has proved itself. Charges are counts, not differences; a new connection
begins with all of them.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterator
from math import inf
from typing import TypeVar

import msgspec

from nebula_core.errors import NebulaError
from nebula_core.gateway.ledger import Count
from nebula_core.gateway.link import FrameTooLarge, frame, read_frame
from nebula_core.router.events import Lost, RouteEvent

HANDSHAKE_S = 5.0
MAX_HELLO = 1024
MAX_REPORT = 16 * 1024 * 1024
MOST_EVENTS = 1000
"""Events in one report: with the longest prefixes, under 3 MB."""
WINDOW_S = 30.0
NONCE_BYTES = 32


class Stranger(NebulaError):
    """The other side does not know the key, or does not speak like a gateway."""


class Hello(msgspec.Struct, frozen=True):
    """A gateway introduces itself."""

    gateway_id: str
    nonce: bytes


class Challenge(msgspec.Struct, frozen=True):
    """The listener proves to be the gateway that published the key, and asks for the same."""

    nonce: bytes
    proof: bytes


class Answer(msgspec.Struct, frozen=True):
    """The dialler proves that it may read the store."""

    proof: bytes


class Report(msgspec.Struct, frozen=True):
    """What is new of the sender's own workers; without anything new it says that the sender lives."""

    sent: float
    """The sender's monotonic clock, in seconds."""
    charges: tuple[Count, ...] = ()
    """Requests in flight on the replicas whose count changed."""
    failures: tuple[Lost, ...] = ()
    events: tuple[RouteEvent, ...] = ()


_M = TypeVar("_M", bound=msgspec.Struct)


async def introduce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gateway_id: str, key: bytes) -> None:
    """The dialler's part of the handshake. Raises `Stranger` if the listener does not know `key`."""
    hello = Hello(gateway_id, secrets.token_bytes(NONCE_BYTES))
    writer.write(frame(hello))
    challenge = await _hear(reader, Challenge)
    if not hmac.compare_digest(challenge.proof, _proof(key, b"listener", hello, challenge.nonce)):
        raise Stranger("who listens there does not know that gateway's key")
    writer.write(frame(Answer(_proof(key, b"dialler", hello, challenge.nonce))))


async def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> str:
    """The listener's part of the handshake: the id of the gateway that dialled. Raises `Stranger`."""
    hello, nonce = await _hear(reader, Hello), secrets.token_bytes(NONCE_BYTES)
    if len(hello.nonce) != NONCE_BYTES:
        raise Stranger("its nonce has the wrong length")
    writer.write(frame(Challenge(nonce, _proof(key, b"listener", hello, nonce))))
    answer = await _hear(reader, Answer)
    if not hmac.compare_digest(answer.proof, _proof(key, b"dialler", hello, nonce)):
        raise Stranger("it does not know this gateway's key, as everybody does who may read the store")
    return hello.gateway_id


async def read_report(reader: asyncio.StreamReader) -> Report:
    """The next report. Raises `msgspec.MsgspecError` if it is none, after which the one behind it may be read; `OSError`, or
    `asyncio.IncompleteReadError` at the end.
    """
    return msgspec.msgpack.decode(await read_frame(reader, MAX_REPORT), type=Report)


def frames(report: Report) -> Iterator[bytes]:
    """A report as it goes over connections, in pieces if it has many events."""
    yield frame(msgspec.structs.replace(report, events=report.events[:MOST_EVENTS]))
    for start in range(MOST_EVENTS, len(report.events), MOST_EVENTS):
        yield frame(Report(report.sent, events=report.events[start : start + MOST_EVENTS]))


class Shift:
    """What to add to another machine's monotonic clock to get ours, learned from what it sends.

    A delay only ever adds to the difference that is seen, so the least of the last minute or half minute is taken: older ones are
    forgotten, since no two clocks run equally fast and a machine may be paused.
    """

    def __init__(self) -> None:
        self._before = self._now = inf
        self._turned = -inf

    def note(self, theirs: float, ours: float) -> float:
        """A frame that was sent at `theirs` came at `ours`; returns the shift in force. It never puts that frame into our future."""
        if ours - self._turned > WINDOW_S:
            self._before, self._now, self._turned = self._now, inf, ours
        self._now = min(self._now, ours - theirs)
        return min(self._before, self._now)


def shifted(report: Report, by: float) -> Report:
    """The report with its events by our clock."""
    events = tuple(msgspec.structs.replace(event, at=event.at + by) for event in report.events)
    return msgspec.structs.replace(report, events=events)


async def _hear(reader: asyncio.StreamReader, type_: type[_M]) -> _M:
    try:
        return msgspec.msgpack.decode(await read_frame(reader, MAX_HELLO), type=type_)
    except (msgspec.MsgspecError, FrameTooLarge) as error:
        raise Stranger("it does not speak like a gateway") from error


def _proof(key: bytes, side: bytes, hello: Hello, nonce: bytes) -> bytes:
    """Both nonces have a fixed length, so that the parts cannot be told apart wrongly."""
    return hmac.digest(key, side + b"\0" + hello.nonce + nonce + hello.gateway_id.encode(), "sha256")
