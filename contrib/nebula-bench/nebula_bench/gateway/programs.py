"""The programs of a benchmark: found, compiled, or installed into an environment of their own, and ended with all they have started."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nebula_bench.gateway import processes
from nebula_bench.gateway.errors import MissingError

END_S = 20.0
"""How long a program may take to end by itself."""
_ENGINE_SOURCE = Path(__file__).with_name("mock_engine.c")


def default_cache() -> Path:
    """Where peers and the compiled engine are kept: `~/.cache/nebula-bench`, or under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nebula-bench"


def find(name: str) -> str:
    """The path of a program of the system. Raises `MissingError`."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingError(f"there is no {name} here; on Debian and Ubuntu: apt install {name}")
    return found


def mock_engine(cache: Path) -> Path:
    """The compiled mock engine. Raises `MissingError` without a C compiler."""
    version = hashlib.sha256(_ENGINE_SOURCE.read_bytes()).hexdigest()[:12]
    program = cache / f"mock-engine-{version}"
    if not program.exists():
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise MissingError("there is no C compiler here for the mock engine; on Debian and Ubuntu: apt install gcc libc6-dev")
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")  # so that runs beside each other never meet half a program
        subprocess.run([compiler, "-O2", "-o", unfinished, _ENGINE_SOURCE], check=True)
        unfinished.rename(program)
    return program


def python_of(requirement: str, cache: Path) -> Path:
    """The Python of an environment that holds this package from PyPI, made when it is first asked for. Raises `MissingError`."""
    folder = cache / re.sub(r"[^\w.]+", "-", requirement)
    ready, python = folder / "ready", folder / "bin/python"
    if not ready.exists():
        print(f"Installing {requirement} into {folder}.", file=sys.stderr)
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        make: list[str | Path] = [sys.executable, "-m", "venv", "--clear", folder]
        for command in (make, pip):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingError(f"{requirement} cannot be installed: {(done.stderr or done.stdout).strip()[-400:]}")
        ready.touch()
    return python


def environment() -> dict[str, str]:
    """This process's environment, without settings for Nebula or a proxy, which would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NEBULA_") and not name.lower().endswith("_proxy")}


@contextlib.contextmanager
def running(command: Sequence[str | Path], log: Path, end_s: float = END_S) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the context is open; what it says goes into `log`. At the end it has `end_s` seconds to go by itself."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment(), start_new_session=True)
    try:
        yield process
    finally:
        _end(process, end_s)


def _end(process: subprocess.Popen[bytes], end_s: float) -> None:
    """In order if it will, else by force; a child that outlives its parent is ended too."""
    started = processes.tree(process.pid)
    process.terminate()
    deadline = time.monotonic() + end_s
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(end_s)
    _wait_gone(started, deadline)
    for pid in filter(processes.runs, started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    _wait_gone(started, time.monotonic() + END_S)


def _wait_gone(pids: Sequence[int], deadline: float) -> None:
    while any(map(processes.runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
