"""A lock on a folder for one process, which the kernel lets go of when that process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nebula_core.errors import StoreLocked


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path` for this process. Else raises `StoreLocked` with `refusal`, whose `{holder}` is the process that holds it.

    The file stays: to remove it would let a third process lock a new file while a second one waits for the old.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, refusal)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} ({_program()})\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, refusal: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        raise StoreLocked(refusal.replace("{holder}", holder)) from error


def _program() -> str:
    """The running command without its options: `nebula up`."""
    name, *rest = sys.argv or ["python"]
    role = rest[:1] if rest and not rest[0].startswith("-") else []
    return " ".join([Path(name).name or "python", *role])
