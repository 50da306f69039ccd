"""How a start is shown: rows that move on a terminal, plain lines elsewhere. Both are a `nebula_core.roles.Progress`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.text import Text

from nebula_core.cli.output import columns, state_text, stderr, stdout
from nebula_core.types import READY

BAD = frozenset({"failed", "unplaced"})
DONE = frozenset({READY, "empty"})


class PlainProgress:
    """One line for every change, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._said: dict[str, tuple[str, str]] = {}

    def step(self, text: str) -> None:
        """Say what happens now."""
        self._say(text)

    def model(self, model_uid: str, state: str, detail: str) -> None:
        """Say that a model's state has changed."""
        if self._said.get(model_uid) != (state, detail):
            self._said[model_uid] = (state, detail)
            self._say(f"{model_uid}: {state}" + (f" ({detail})" if detail else ""))

    def ready(self, lines: Sequence[str]) -> None:
        """Say that everything is up, and what to try next."""
        self._say("\n".join(lines))

    def _say(self, text: str) -> None:
        self.console.print(Text(text))


@dataclass(frozen=True)
class Row:
    """A model on the board. `since` is when it was first seen, `took` the seconds until it was ready."""

    state: str
    detail: str
    since: float
    took: float | None = None


class LiveProgress:
    """What happens now and a row per model, redrawn in place until everything is ready; afterwards a line for every change."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._step = ""
        self._rows: dict[str, Row] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=10, redirect_stderr=False)

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._step = ""
        self._live.stop()

    def step(self, text: str) -> None:
        """Show what happens now."""
        self._step = text
        if not self._live.is_started:
            self.console.print(Text(text))

    def model(self, model_uid: str, state: str, detail: str) -> None:
        """Show a model's new state."""
        now, before = self._clock(), self._rows.get(model_uid)
        since = before.since if before else now
        self._rows[model_uid] = Row(state, detail, since, now - since if state in DONE else None)
        if not self._live.is_started and (before is None or (before.state, before.detail) != (state, detail)):
            self.console.print(Text.assemble(model_uid, ": ", state_text(state), f" ({detail})" if detail else ""))

    def ready(self, lines: Sequence[str]) -> None:
        """Leave the rows standing, and say what to try next."""
        self.__exit__()
        *facts, invitation = lines
        self.console.print(*map(Text, facts), Text(invitation, style="bold"), sep="\n")

    def render(self) -> RenderableType:
        """The board as it stands."""
        now = self._clock()
        spinner = self._spinner.render(now)
        frame = spinner if isinstance(spinner, Text) else Text()
        step = [Text.assemble(frame, " ", self._step)] if self._step else []
        return Group(*step, *self._model_lines(frame, now))

    def _model_lines(self, frame: Text, now: float) -> Iterator[RenderableType]:
        if not self._rows:
            return
        cells = [(Text.assemble(_mark(row, frame), " ", uid), state_text(row.state), _seconds(row, now)) for uid, row in self._rows.items()]
        for line, row in zip(columns(cells), self._rows.values(), strict=True):
            yield Padding(line, (0, 0, 0, 2), expand=False)
            if row.detail:
                yield Padding(Text(row.detail, style="dim"), (0, 0, 0, 4), expand=False)


@contextmanager
def shown(aside: bool = False) -> Iterator[PlainProgress | LiveProgress]:
    """The progress that suits standard output; `aside`: standard error, where the output is a document."""
    console = stderr() if aside else stdout()
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    with LiveProgress(console) as live:
        yield live


def _mark(row: Row, frame: Text) -> Text:
    if row.state in DONE:
        return Text("✓", style="green")
    return Text("✗", style="red") if row.state in BAD else frame


def _seconds(row: Row, now: float) -> str:
    return f"{row.took if row.took is not None else now - row.since:.1f} s"
