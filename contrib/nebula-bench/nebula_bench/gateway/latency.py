"""`latency`: what a gateway adds to the time of a request at one connection, for a JSON answer and for the first event of a stream."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import cycle
from urllib.parse import urlsplit

import msgspec
from httptools import HttpResponseParser

from nebula_bench.figures import quantile
from nebula_bench.gateway import gateways, machine, prompts
from nebula_bench.gateway.errors import GatewayError
from nebula_bench.gateway.scene import Scene

DIRECT = "direct"
EVENTS = 3
KINDS = {"json": False, "first event": True}
_WARM_UP_S = 1.0
_PATIENCE_S = 10.0
_PIECE = 65536


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """One way to the engine, in one round."""

    kind: str
    gateway: str
    round: int
    samples: int
    p50_us: float
    p99_us: float
    added_p50_us: float
    """Over the direct way in the same round."""
    added_p99_us: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.kind:12} {self.gateway:26} round {self.round}: p50 {self.p50_us:7.0f} us (+{self.added_p50_us:.0f})"
            f"  p99 {self.p99_us:7.0f} us (+{self.added_p99_us:.0f})  of {self.samples}"
        )


class Connection:
    """One client that asks and waits, over one connection. The `on_` methods are called by the parser."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, body: bytes) -> float:
        """Seconds until the first byte of the answer's body; returns when all of it has come. Raises `GatewayError`."""
        self._first_at, self._complete = 0.0, False
        parser = HttpResponseParser(self)
        began = time.perf_counter()
        self._socket.sendall(prompts.request(self.port, body))
        while not self._complete:
            piece = self._socket.recv(_PIECE)
            if not piece:
                raise GatewayError("the connection was closed in the middle of an answer")
            parser.feed_data(piece)
        if parser.get_status_code() != 200:
            raise GatewayError(f"a request was answered with {parser.get_status_code()}")
        return self._first_at - began

    def on_body(self, piece: bytes) -> None:
        """Some of the answer."""
        self._first_at = self._first_at or time.perf_counter()

    def on_message_complete(self) -> None:
        """All of it."""
        self._complete = True

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def run(scene: Scene) -> list[Latency]:
    """Every way is asked in turn, request by request, so that what disturbs the machine disturbs all of them."""
    taking_part = [gateways.NEBULA, *gateways.available(scene.peers, scene.cache, scene.say)]
    here = machine.describe([peer.requirement for peer in taking_part if peer.requirement])
    scene.say(f"{here.lines()}\n")
    found: list[Latency] = []
    with gateways.engines(scene.cache, scene.folder, events=EVENTS) as urls, ExitStack() as stack:
        ports = {DIRECT: urlsplit(urls[0]).port or 0}
        for gateway in taking_part:
            running = stack.enter_context(gateways.serving(gateway, urls, scene.cache, scene.folder / gateway.name))
            ports[gateway.name] = running.port
        ways = {name: stack.enter_context(closing(Connection(port))) for name, port in ports.items()}
        for number in range(scene.rounds + 1):  # round 0 warms up
            for kind, stream in KINDS.items():
                times_s = _ask_in_turn(ways, prompts.bodies(stream=stream), scene.seconds if number else _WARM_UP_S)
                if number:
                    found += _compared(scene, kind, number, times_s)
    scene.say(f"\n{table(found)}")
    scene.write({"machine": here, "rows": found, "ratios": ratios(found)})
    return found


def ratios(found: Sequence[Latency], gateway: str = gateways.NEBULA.name) -> dict[str, dict[str, float]]:
    """What `gateway` adds divided by what each other adds in the same round, the median over rounds: by kind and quantile, and peer."""
    result: dict[str, dict[str, float]] = {}
    by_key = {(one.kind, one.round, one.gateway): one for one in found}
    for kind, quantile_name, peer in _comparisons(found, gateway):
        field = f"added_{quantile_name}_us"
        ours = [(one, by_key.get((kind, one.round, peer))) for one in found if one.kind == kind and one.gateway == gateway]
        both = [getattr(mine, field) / getattr(theirs, field) for mine, theirs in ours if theirs is not None and getattr(theirs, field) > 0]
        if both:
            result.setdefault(f"{kind} {quantile_name}", {})[peer] = statistics.median(both)
    return result


def table(found: Sequence[Latency]) -> str:
    """What is added, the median over rounds, and what Nebula adds as a multiple of what each other adds, as a Markdown table."""
    names = list(dict.fromkeys(one.gateway for one in found if one.gateway != DIRECT))
    compared = ratios(found)
    lines = ["| added, µs | " + " | ".join(names) + " | Nebula's divided by |", "|---|" + "--:|" * len(names) + "---|"]
    for kind in KINDS:
        for name in ("p50", "p99"):
            added = {one: [getattr(row, f"added_{name}_us") for row in found if (row.kind, row.gateway) == (kind, one)] for one in names}
            cells = " | ".join(f"{statistics.median(values):.0f}" for values in added.values() if values)
            divided = ", ".join(f"{peer}'s: {ratio:.2f}" for peer, ratio in compared.get(f"{kind} {name}", {}).items())
            lines.append(f"| {kind}, {name} | {cells} | {divided} |")
    return "\n".join(lines)


def _comparisons(found: Sequence[Latency], gateway: str) -> Iterator[tuple[str, str, str]]:
    peers = dict.fromkeys(one.gateway for one in found if one.gateway not in (gateway, DIRECT))
    return ((kind, name, peer) for kind in KINDS for name in ("p50", "p99") for peer in peers)


def _ask_in_turn(ways: dict[str, Connection], bodies: Sequence[bytes], seconds: float) -> dict[str, list[float]]:
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    for body in cycle(bodies):
        for name, way in ways.items():
            times_s[name].append(way.ask(body))
        if time.monotonic() > end:
            break
    return times_s


def _compared(scene: Scene, kind: str, number: int, times_s: dict[str, list[float]]) -> list[Latency]:
    p50, p99 = ({name: quantile(values, share) * 1e6 for name, values in times_s.items()} for share in (0.5, 0.99))
    found = [
        Latency(
            kind=kind,
            gateway=name,
            round=number,
            samples=len(values),
            p50_us=p50[name],
            p99_us=p99[name],
            added_p50_us=p50[name] - p50[DIRECT],
            added_p99_us=p99[name] - p99[DIRECT],
        )
        for name, values in times_s.items()
    ]
    for one in found:
        scene.say(one.line())
    return found
