"""A table that fits a terminal by leaving columns out, for half a figure tells nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000


@dataclass(frozen=True)
class Column:
    """One column, with all its cells."""

    group: str
    """What it belongs to: written above the first one of a group."""
    head: str
    cells: Sequence[Text]
    spare: int = 0
    """Where space is short the column with the highest number goes first; 0: it never does."""
    justify: Literal["left", "right"] = "right"
    wraps: bool = False
    """Its cells are words that may stand below each other."""

    @property
    def name(self) -> str:
        """In full."""
        return f"{self.group} {self.head}".strip()


def fitted(columns: Sequence[Column], width: int, title: str, caption: Sequence[str], sections: Collection[int] = ()) -> Table:
    """The table, not wider than that if enough columns may go. A line is drawn above the rows in `sections`."""
    kept, hidden = list(columns), list[Column]()
    while _width(_table(kept, title, caption, sections)) > width and (spare := [column for column in kept if column.spare]):
        hidden.append(max(spare, key=lambda column: column.spare))
        kept.remove(hidden[-1])
    if hidden:
        names = [column.name for column in columns if column in hidden]
        caption = [*caption, f"not shown for lack of width: {', '.join(names)}"]
    made = _table(kept, title, caption, sections)
    if _width(made) > width:
        made.width = _width(made)  # the terminal breaks the lines, and all is there
    return made


def _table(columns: Sequence[Column], title: str, caption: Sequence[str], sections: Collection[int]) -> Table:
    made = Table(title=title, caption="; ".join(caption), caption_justify="left", title_style="bold", header_style="")
    for place, column in enumerate(columns):
        continues = place and column.group and columns[place - 1].group == column.group
        group = "" if continues else column.group
        narrowest = max(len(group), len(column.head))
        made.add_column(f"{group}\n{column.head}", justify=column.justify, no_wrap=not column.wraps, min_width=narrowest)
    for place, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        if place in sections:
            made.add_section()
        made.add_row(*cells)
    return made


def _width(table: Table) -> int:
    """What it needs so that nothing is cut off."""
    console = Console(width=UNBOUNDED)
    return table.__rich_measure__(console, console.options).minimum
