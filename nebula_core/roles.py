"""What a process of Nebula may be, and what it tells while it starts. `nebula_core.serve` puts the parts together."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """What a process may be; `nebula up` is all three."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    NODE = "node"


class Progress(Protocol):
    """Told what happens while a process starts and stops; the command line shows it."""

    def step(self, text: str) -> None:
        """Something begins."""

    def model(self, model_uid: str, state: str, detail: str) -> None:
        """A declared model's state changed."""

    def ready(self, lines: Sequence[str]) -> None:
        """All that was declared is up; the last line says what to try next."""
