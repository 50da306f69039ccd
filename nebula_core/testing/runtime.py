"""What every `Runtime` must do. A runtime's tests inherit `RuntimeContract` and say how to make one.

class TestMyRuntime(RuntimeContract):
    @pytest.fixture
    def make_runtime(self, tmp_path):
        return lambda: MyRuntime(tmp_path)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from nebula_core.errors import LaunchError
from nebula_core.interfaces import Exit, Launch, Runtime
from nebula_core.testing.engines import fake_launch
from nebula_core.testing.polling import eventually

MakeLaunch = Callable[..., Launch]


class RuntimeContract:
    """Start, find again, wait, stop, read the log."""

    @pytest.fixture
    def make_runtime(self) -> Callable[[], Runtime]:
        """Makes a runtime; a second one is what the next daemon would have: the same data folder, nothing remembered."""
        raise NotImplementedError("the subclass says how to make a runtime")

    @pytest.fixture
    def launch(self) -> MakeLaunch:
        """Makes a launch of the fake engine with the options given; a runtime of containers has another."""
        return fake_launch

    @pytest_asyncio.fixture
    async def runtime(self, make_runtime: Callable[[], Runtime]) -> AsyncIterator[Runtime]:
        """A runtime that leaves nothing behind."""
        runtime = make_runtime()
        yield runtime
        for handle in await make_runtime().running():
            await runtime.stop(handle, 0)

    async def test_what_was_started_is_running(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """The handle says it all, the note included."""
        handle = await runtime.start("one", launch(), b"a note")
        assert handle.name == "one"
        assert handle.note == b"a note"
        assert await runtime.running() == [handle]

    async def test_the_next_daemon_finds_it(self, runtime: Runtime, launch: MakeLaunch, make_runtime: Callable[[], Runtime]) -> None:
        """Equal handles, so that nothing is started twice."""
        handle = await runtime.start("one", launch(), b"a note")
        assert await make_runtime().running() == [handle]

    async def test_the_next_daemon_learns_how_it_ended(
        self, runtime: Runtime, launch: MakeLaunch, make_runtime: Callable[[], Runtime]
    ) -> None:
        """Waiting does not take having started it."""
        await runtime.start("one", launch(), b"")
        adopter = make_runtime()
        [handle] = await adopter.running()
        assert (await adopter.stop(handle, 30)).code is not None
        assert await adopter.running() == []

    async def test_wait_returns_the_exit_code(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """The engine's own, not a wrapper's."""
        handle = await runtime.start("one", launch(crash=3), b"")
        assert await runtime.wait(handle) == Exit(3)

    async def test_all_who_wait_learn_the_same(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """A loop waits for the end while another part stops the engine."""
        handle = await runtime.start("one", launch(), b"")
        waiter = asyncio.create_task(runtime.wait(handle))
        assert await runtime.stop(handle, 30) == await waiter == await runtime.wait(handle)

    async def test_an_engine_that_ignores_sigterm_is_killed(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """After the grace."""
        handle = await runtime.start("one", launch(ignore_term=True), b"")
        await listening(runtime, "one")
        assert await runtime.stop(handle, 0.2) == Exit(-9)

    async def test_stopping_twice_is_harmless(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """The second time there is nothing to do."""
        handle = await runtime.start("one", launch(), b"")
        assert await runtime.stop(handle, 30) == await runtime.stop(handle, 30)

    async def test_a_name_in_use_is_refused(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """There are never two engines of one replica."""
        handle = await runtime.start("one", launch(), b"")
        with pytest.raises(LaunchError, match="one"):
            await runtime.start("one", launch(), b"")
        assert await runtime.running() == [handle]

    async def test_a_name_can_be_used_again_after_the_end(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """A restart keeps the replica's name; the old handle means the old engine."""
        first = await runtime.start("one", launch(crash=1), b"")
        await runtime.wait(first)
        second = await runtime.start("one", launch(), b"")
        await runtime.stop(first, 0)
        assert await runtime.running() == [second]

    async def test_a_program_that_does_not_exist_is_named(self, runtime: Runtime) -> None:
        """And nothing is left of the attempt."""
        with pytest.raises(LaunchError, match="no-such-program"):
            await runtime.start("one", Launch(("no-such-program",)), b"")
        assert await runtime.running() == []

    async def test_the_last_lines_can_be_read_after_the_end(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """They say why it died."""
        handle = await runtime.start("one", launch(say=["loading", "no memory"], crash=1), b"")
        await runtime.wait(handle)
        assert await runtime.last_lines("one", 10) == ["loading", "no memory"]
        assert await runtime.last_lines("one", 1) == ["no memory"]

    async def test_the_last_lines_are_those_of_the_last_start(self, runtime: Runtime, launch: MakeLaunch) -> None:
        """Else an operator would read yesterday's fault."""
        for line in ("yesterday", "today"):
            await runtime.wait(await runtime.start("one", launch(say=[line], crash=1), b""))
        assert await runtime.last_lines("one", 10) == ["today"]

    async def test_a_name_never_started_has_no_lines(self, runtime: Runtime) -> None:
        """No error."""
        assert await runtime.last_lines("nobody", 10) == []

    @pytest.mark.parametrize("name", ["0", "-rf", "..a", "a.b_c-D.9", "x" * 120])
    async def test_any_allowed_name_will_do(self, runtime: Runtime, launch: MakeLaunch, name: str) -> None:
        """Names come from models' names."""
        handle = await runtime.start(name, launch(), b"")
        assert [found.name for found in await runtime.running()] == [name]
        await runtime.stop(handle, 30)


async def listening(runtime: Runtime, name: str) -> None:
    """Wait until the fake engine says that it listens."""

    async def says_so() -> bool:
        return any(line.startswith("listening") for line in await runtime.last_lines(name, 50))

    await eventually(says_so)
