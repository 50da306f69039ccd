"""wrk, which loads a gateway at next to no cost of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from nebula_bench.gateway import programs, prompts
from nebula_bench.gateway.errors import GatewayError

_SCRIPT = Path(__file__).with_name("load.lua")
_PATIENCE_S = 30


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What clients have seen."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers with an error status."""
    socket_errors: int
    """Connections that were refused, broke, or fell silent."""


def load(port: int, bodies: Path, *, connections: int, seconds: float) -> Load:
    """Send the bodies of a file, a line each, over so many connections at once. wrk counts in whole seconds, at least one."""
    command = [programs.find("wrk"), "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    url = f"http://127.0.0.1:{port}{prompts.PATH}"
    command += ["--timeout", f"{_PATIENCE_S}s", "--script", str(_SCRIPT), url, "--", str(bodies)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 2 * _PATIENCE_S, check=False)
    found = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if done.returncode or found is None:
        raise GatewayError(f"wrk has ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}")
    return msgspec.json.decode(found, type=Load)
