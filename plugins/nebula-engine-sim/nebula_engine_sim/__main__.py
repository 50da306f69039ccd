"""`python -m nebula_engine_sim --model NAME --port PORT [--count N] [--KEY VALUE …]`: a simulated vLLM, or many of them.

Clients must send the key in the environment variable NEBULA_SIM_API_KEY, if it is set.
"""

from __future__ import annotations

import argparse
import os
import sys

import msgspec
import uvloop
from pydantic import ValidationError

from nebula_core import InvalidModelRequest, ReplicaSpec
from nebula_engine_sim.arguments import SimArgs
from nebula_engine_sim.engine import KEY_VARIABLE
from nebula_engine_sim.server.run import Program, say, serve

LAST_PORT = 65535


def main() -> int:
    """Returns the exit code: 2 for a wrong option, 1 for a port in use, that of a crash, or 0 after a signal."""
    options = parse(sys.argv[1:])
    try:
        program = program_of(options)
    except (InvalidModelRequest, ValidationError, ValueError, OSError) as error:
        say(str(error))
        return 2
    try:
        return uvloop.run(serve(program))
    except OSError as error:
        say(f"cannot listen on {program.host}, port {program.port} and following: {error.strerror or error}")
        return 1


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line: `arguments.py` describes the keys and has their defaults."""
    parser = argparse.ArgumentParser(prog="python -m nebula_engine_sim", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="sim", help="name of the model (default: sim)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="of the first replica; the others have the next ones (default: 8000)")
    parser.add_argument("--count", type=int, default=1, help="replicas in this process (default: 1)")
    for key, field in SimArgs.model_fields.items():
        parser.add_argument(f"--{key.replace('_', '-')}", dest=key, metavar="VALUE", help=f"default: {field.default!r}")
    return parser.parse_args(argv)


def program_of(options: argparse.Namespace) -> Program:
    """What these options ask for. Raises `InvalidModelRequest`, `ValueError` or `OSError` that names what is wrong."""
    given = {key: _value(getattr(options, key)) for key in SimArgs.model_fields if getattr(options, key) is not None}
    _check_ports(options.port, options.count)
    arguments = SimArgs.of(ReplicaSpec(model_uid=options.model, engine="sim", engine_args=given))
    arguments.make_engine(tokens=False)
    key = os.environ.get(KEY_VARIABLE, "")
    return Program(options.host, options.port, options.count, options.model, key, arguments, arguments.timeline())


def _check_ports(port: int, count: int) -> None:
    """Every replica has a port that exists: the system takes 70000 for 4464, and 0 for any."""
    if count < 1:
        raise ValueError(f"--count has to be at least 1, got {count}")
    if not 1 <= port <= LAST_PORT:
        raise ValueError(f"--port has to be between 1 and {LAST_PORT}, got {port}")
    if port + count - 1 > LAST_PORT:
        raise ValueError(f"--count {count} from --port {port} on needs ports up to {port + count - 1}; the last one is {LAST_PORT}")


def _value(text: str) -> object:
    """Numbers and lists are JSON; what is none is a text, such as a path."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
