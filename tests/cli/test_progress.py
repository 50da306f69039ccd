"""How a start is shown, on a terminal and in a pipe, with the clock handed in."""

import io

from rich.console import Console

from nebula_core.cli.progress import LiveProgress, PlainProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None, legacy_windows=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def board(progress: LiveProgress) -> list[str]:
    screen = console(terminal=False)
    screen.print(progress.render())
    return [line.rstrip() for line in written(screen).splitlines()]


def test_a_pipe_gets_a_line_for_every_change() -> None:
    progress = PlainProgress(console(terminal=False))
    progress.step("opening the store")
    progress.model("smollm2", "starting", "")
    progress.model("smollm2", "starting", "loading")
    progress.model("smollm2", "starting", "loading")
    progress.model("smollm2", "ready", "")
    progress.ready(["Nebula is up", "try this"])
    assert written(progress.console).splitlines() == [
        "opening the store",
        "smollm2: starting",
        "smollm2: starting (loading)",
        "smollm2: ready",
        "Nebula is up",
        "try this",
    ]


def test_the_board_shows_what_happens_now_and_how_long_each_model_takes() -> None:
    clock = Clock()
    progress = LiveProgress(console(terminal=True), clock)
    progress.step("starting engines")
    progress.model("smollm2", "starting", "loading")
    progress.model("other", "starting", "")
    clock.now = 2.5
    progress.model("smollm2", "ready", "")
    clock.now = 4.0
    step, *models = board(progress)
    assert step.endswith(" starting engines")
    assert models[0].split() == ["✓", "smollm2", "ready", "2.5", "s"]
    assert models[1].split()[1:] == ["other", "starting", "4.0", "s"]


def test_the_board_says_why_a_model_is_not_ready() -> None:
    progress = LiveProgress(console(terminal=True), Clock())
    progress.model("[red]", "failed", "code 1\nlast line")
    assert [line.strip() for line in board(progress)] == ["✗ [red]  failed  0.0 s", "code 1", "last line"]


def test_after_the_start_every_change_is_a_line_again() -> None:
    screen = console(terminal=True)
    with LiveProgress(screen, Clock()) as progress:
        progress.model("smollm2", "ready", "")
        progress.ready(["Nebula is up", "try this"])
        progress.model("smollm2", "ready", "")
        progress.model("smollm2", "unhealthy", "three failed probes")
        progress.step("stopping")
    lines = [line.strip() for line in written(screen).splitlines()]
    assert lines[-3:] == ["try this", "smollm2: unhealthy (three failed probes)", "stopping"]


def test_a_start_that_fails_leaves_the_board_standing() -> None:
    screen = console(terminal=True)
    with LiveProgress(screen, Clock()) as progress:
        progress.step("starting engines")
        progress.model("smollm2", "failed", "code 1")
    assert "✗ smollm2" in written(screen)
