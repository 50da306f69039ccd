"""What every command writes with: two consoles, one JSON document, and the colours of states.

Text from elsewhere (names, reasons, log lines) is printed as `Text`, never as markup: a model may be called `[red]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.text import Text

WIDE: Final = 10_000
"""Columns of an output that is no terminal: lines in a pipe are not wrapped."""
STYLES: Final[Mapping[str, str]] = {
    "ready": "green",
    "degraded": "yellow",
    "starting": "yellow",
    "placed": "yellow",
    "abnormal": "magenta",
    "unhealthy": "red",
    "failed": "red",
    "unplaced": "red",
    "draining": "cyan",
    "unloading": "cyan",
    "stopped": "dim",
    "empty": "green",
}
"""Style of a state; one that is not known here is printed plainly."""


def stdout() -> Console:
    """A console on standard output as it is now."""
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


def stderr() -> Console:
    """A console on standard error as it is now."""
    return Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else WIDE)


def say_error(message: str) -> None:
    """Tell what went wrong, on standard error."""
    stderr().print(Text.assemble(("error: ", "bold red"), message))


def say_warning(message: str) -> None:
    """Tell what is odd but no obstacle, on standard error."""
    stderr().print(Text.assemble(("warning: ", "bold yellow"), message))


def print_json(document: Any) -> None:
    """Print one JSON document on standard output, and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STYLES.get(state, ""))


def columns(rows: Sequence[Sequence[str | Text]], gap: int = 2) -> list[Text]:
    """Rows as lines whose cells stand below each other; whatever follows a row may be as wide as it likes."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + gap))
        line.rstrip()
        lines.append(line)
    return lines
