"""What Nebula's gateway costs, beside other gateways and on its own. Figures only: nothing here passes or fails.

    python -m nebula_bench.gateway                     CPU time per request, beside haproxy and compiled LLM routers
    python -m nebula_bench.gateway latency             what a gateway adds to the time of one request
    python -m nebula_bench.gateway streams             10,000 streams at once on one worker
    python -m nebula_bench.gateway stalled             1,000 clients that do not read
    python -m nebula_bench.gateway workers             two workers beside one, and the death of one

Each explains itself with --help. Engines are a small C program that thinks nothing; Nebula is `nebula up` as shipped.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from nebula_bench.gateway import compare, latency, programs, stalled, streams, workers
from nebula_bench.gateway.errors import GatewayError, MissingError
from nebula_bench.gateway.gateways import PEERS
from nebula_bench.gateway.scene import Scene, working_folder

_COMPARE = """CPU time per request of gateways under the same load from wrk, in turns.

CPU time is read from /proc for all processes of a gateway, Nebula's control process included, so that a busy machine disturbs it less
than it does latency. What to trust is the ratio of two gateways within a round; its median over rounds comes last.

  json           64 connections, short prompts, JSON answers
  json-32KiB     32 connections, prompts of 32 KiB, JSON answers
  sse-burst-20   64 connections, streams of 20 events at once
  sse-paced-50   200 connections, streams of 50 events, 10 ms apart

The prompts share 16 prefixes and differ. A row with failed requests, or whose requests Nebula's prefix strategy has not all decided, is
marked DOUBTFUL and left out of the ratios. Needs a C compiler and wrk; peers that cannot be had are left out with a message."""
_LATENCY = """What each gateway adds to the time of a request at one connection.

Every way is asked in turn, request by request. Added p99 is the p99 through the gateway less the direct p99. `first event` is the time
to the first byte of a streamed answer's body."""
_STREAMS = """Very many streams at once through one worker, each with one event a second.

Prints errors, the worker's memory per stream (its PSS with them less that before, divided) and its CPU. A worker holds two open files
per stream; where the hard limit is too low for that, this says so and how to raise it."""
_STALLED = """Clients that ask for streams without end and read nothing.

Prints what each costs the worker in memory once that has settled, what the kernel keeps in sockets for it, and how other clients fare
before and beside them."""
_WORKERS = """CPU time per request with two workers beside one, and what is lost when one is killed.

The kill is a SIGKILL under load: requests on connections of the killed worker should be the only ones that fail."""


def main() -> None:
    """Run one command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    options = _parse(sys.argv[1:])
    try:
        with working_folder() as folder:
            options.run(Scene(options.cache, folder, options.rounds, options.seconds, tuple(options.peers), options.json), options)
    except (MissingError, GatewayError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nebula_bench.gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    one = _command(commands, "compare", _COMPARE, 3, 5.0, lambda scene, options: compare.run(scene, tuple(options.scenarios)))
    one.add_argument("--scenarios", type=_names(compare.SCENARIOS), default=list(compare.SCENARIOS), metavar="NAME,…", help="default: all")
    _add_peers(one, list(PEERS))
    one = _command(commands, "latency", _LATENCY, 3, 5.0, lambda scene, _: latency.run(scene))
    _add_peers(one, ["haproxy"])
    one = _command(commands, "streams", _STREAMS, 1, 20.0, lambda scene, options: streams.run(scene, options.streams, options.interval_ms))
    one.add_argument("--streams", type=int, default=10_000, metavar="N", help="default: %(default)s")
    one.add_argument("--interval-ms", type=int, default=1000, metavar="MS", help="between two events of a stream (default: %(default)s)")
    one = _command(commands, "stalled", _STALLED, 1, 5.0, lambda scene, options: stalled.run(scene, options.readers))
    one.add_argument("--readers", type=int, default=1000, metavar="N", help="clients that do not read (default: %(default)s)")
    _command(commands, "workers", _WORKERS, 3, 6.0, lambda scene, _: workers.run(scene))
    named = words and (words[0] in commands.choices or words[0] in ("-h", "--help"))
    return parser.parse_args(words if named else ["compare", *words])


def _command(
    commands: Any, name: str, text: str, rounds: int, seconds: float, run: Callable[[Scene, Any], object]
) -> argparse.ArgumentParser:
    """A command with the options that all have."""
    summary = text.partition("\n")[0]
    one: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    one.add_argument("--rounds", type=int, default=rounds, metavar="N", help="default: %(default)s")
    one.add_argument("--seconds", type=float, default=seconds, metavar="S", help="of one measurement (default: %(default)g)")
    one.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    one.add_argument(
        "--cache", type=Path, default=programs.default_cache(), metavar="FOLDER", help="for peers and the engine (default: %(default)s)"
    )
    one.set_defaults(run=run, peers=())
    return one


def _add_peers(parser: argparse.ArgumentParser, default: list[str]) -> None:
    parser.add_argument(
        "--peers",
        type=_names(PEERS),
        default=default,
        metavar="NAME,…",
        help=f"of {', '.join(PEERS)}; those from PyPI are installed when first asked for (default: {','.join(default)}; '' for none)",
    )


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Reads a list of names with commas between them."""

    def names(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(known)}")
        return found

    return names


if __name__ == "__main__":
    main()
