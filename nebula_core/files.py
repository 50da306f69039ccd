"""Small files that are there whole or not at all, and that only their owner can read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace(file: Path, data: bytes) -> None:
    """Put a file in the place of what was there. It is on the disk when this returns. May raise `OSError`."""
    with _beside(file, data) as temporary:
        temporary.replace(file)


def create(file: Path, data: bytes) -> None:
    """Make a file unless it is there: of two who do so at once, one wins, and the other's is dropped. May raise `OSError`."""
    with _beside(file, data) as temporary, suppress(FileExistsError):
        file.hardlink_to(temporary)


@contextmanager
def _beside(file: Path, data: bytes) -> Iterator[Path]:
    """The same under another name, which goes at the end."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
