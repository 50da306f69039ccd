"""What every command of the benchmark shares: where it works, how often and how long, and how it tells what it has found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True)
class Scene:
    """One call of one command."""

    cache: Path
    folder: Path
    """Settings, logs and prompts; it is gone afterwards."""
    rounds: int
    seconds: float
    peers: tuple[str, ...] = ()
    json: Path | None = None

    def say(self, text: str) -> None:
        """To whoever watches."""
        print(text, flush=True)

    def write(self, found: dict[str, Any]) -> None:
        """All figures into the file that was asked for, if any was."""
        if self.json is not None:
            self.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
            print(f"All figures are in {self.json}.", file=sys.stderr)


@contextmanager
def working_folder() -> Iterator[Path]:
    """A folder for one call; sockets lie in it too, so its name is short."""
    with tempfile.TemporaryDirectory(prefix="nebula-bench-") as name:
        yield Path(name)
