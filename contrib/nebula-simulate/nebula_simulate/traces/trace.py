"""A trace as the replay sees it: sessions of turns, whatever file they come from."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK_TOKENS = 512
"""Tokens per block of every trace once it is read: engines and strategies are simulated in these blocks."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. Two turns of a session, or of a trace whose scope is global, share the leading blocks of equal ids."""

    pause_s: float
    """From the end of the session's turn before it until it is sent."""
    prompt_tokens: int
    output_tokens: int
    blocks: array[int] | None
    """Ids of the whole blocks of its prompt, each standing for all up to it; `None`: it shares nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """Turns that follow each other; most traces have sessions of one turn."""

    start_s: float
    """From the start of the trace; 0 where the trace has no common clock."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Trace:
    """All of a file."""

    path: Path
    sessions: Sequence[Session]
    tick_s: float = 0.0
    """Start times are quantised to this."""
    timed: bool = True
    """Sessions have start times; else they are played by so many clients at once, each one session after the other."""

    @property
    def length_s(self) -> float:
        """When the last session starts."""
        return max((session.start_s for session in self.sessions), default=0.0) + self.tick_s


def checked(turn: Turn) -> Turn:
    """The turn itself; raises `ValueError` for lengths and pauses that cannot be."""
    if turn.prompt_tokens < 1 or turn.output_tokens < 0:
        raise ValueError(f"{turn.prompt_tokens} tokens in and {turn.output_tokens} out: at least 1 and 0 are needed")
    if not 0 <= turn.pause_s < float("inf"):
        raise ValueError(f"a pause of {turn.pause_s} s")
    return turn
