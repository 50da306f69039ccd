# These tests look at real files and processes between awaits, where blocking for a moment harms nobody.
# ruff: noqa: ASYNC220, ASYNC240
from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from nebula_runtime_process import ProcessSettings, build
from nebula_runtime_process.folder import Folder
from nebula_runtime_process.process import boot_id, start_ticks, ticks_to_s
from pydantic import ValidationError

from nebula_core import Context, Exit, Handle, Launch, LaunchError, Runtime
from nebula_core.testing.engines import fake_launch
from nebula_core.testing.polling import eventually
from nebula_core.testing.runtime import RuntimeContract, listening

DAEMON = """
import asyncio, logging, os, sys
from pathlib import Path
from nebula_core import Context
from nebula_core.testing.engines import fake_launch
from nebula_runtime_process import ProcessSettings, build

async def main():
    runtime = build(Context(logger=logging.getLogger("daemon"), data_dir=Path(sys.argv[1])), ProcessSettings())
    handle = await runtime.start("one", fake_launch(), b"")
    print(handle.pid, flush=True)
    await runtime.wait(handle)

asyncio.run(main())
"""


def make(data_dir: Path, **settings: object) -> Runtime:
    return build(Context(logger=logging.getLogger("test"), data_dir=data_dir), ProcessSettings.model_validate(settings))


def processes_of(data_dir: Path) -> list[int]:
    """Shims of this data folder."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and str(data_dir).encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def own_children() -> list[int]:
    """Children of this process, also those that have ended and were not collected."""
    threads = Path("/proc/self/task").glob("*/children")
    return sorted(int(pid) for thread in threads for pid in thread.read_text().split())


def shim_of(data_dir: Path, name: str) -> int:
    record = Folder(data_dir / name).record()
    assert record is not None
    return record.shim_pid


async def child_of(runtime: Runtime, handle_pid: int, name: str) -> int:
    """The process that the fake engine left in a session of its own, once it is up."""

    async def up() -> bool:
        return "child up" in await runtime.last_lines(name, 50)

    await eventually(up)
    [child] = [int(pid) for pid in Path(f"/proc/{handle_pid}/task/{handle_pid}/children").read_text().split()]
    return child


def gone(pid: int) -> Callable[[], object]:
    async def look() -> bool:
        return start_ticks(pid) is None

    return look


class TestProcessRuntime(RuntimeContract):
    @pytest.fixture
    def make_runtime(self, tmp_path: Path) -> Callable[[], Runtime]:
        return lambda: make(tmp_path)


def test_it_works_on_the_loop_that_nebula_runs_on(tmp_path: Path) -> None:
    async def round_trip() -> Exit:
        runtime = make(tmp_path)
        handle = await runtime.start("one", fake_launch(), b"")
        waiter = asyncio.create_task(runtime.wait(handle))
        await runtime.stop(handle, 30)
        return await waiter

    assert uvloop.run(round_trip()).code is not None
    assert processes_of(tmp_path) == []


async def test_an_engine_outlives_a_killed_daemon_and_the_next_one_learns_its_exit_code(tmp_path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    with daemon, daemon.stdout:
        pid = int(daemon.stdout.readline())
        daemon.kill()
    runtime = make(tmp_path)
    [handle] = await runtime.running()
    assert handle.pid == pid
    os.kill(pid, signal.SIGKILL)
    assert await runtime.wait(handle) == Exit(-9)
    assert await runtime.running() == []


async def test_the_terminal_of_the_daemon_is_not_the_engines(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(), b"")
    assert os.getsid(handle.pid) == handle.pid
    assert os.getsid(shim_of(tmp_path, "one")) == shim_of(tmp_path, "one")
    await runtime.stop(handle, 30)


async def test_everything_the_engine_started_ends_with_it(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(ignore_term=True, children=1), b"")
    child = await child_of(runtime, handle.pid, "one")
    await listening(runtime, "one")
    assert await runtime.stop(handle, 0.1) == Exit(-9)
    assert start_ticks(child) is None


async def test_what_a_crashed_engine_leaves_behind_is_ended(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(children=1), b"")
    child = await child_of(runtime, handle.pid, "one")
    os.kill(handle.pid, signal.SIGKILL)
    assert await runtime.wait(handle) == Exit(-9)
    assert start_ticks(child) is None


async def test_a_killed_shim_takes_its_engine_and_all_that_it_started_with_it(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(children=1), b"")
    child = await child_of(runtime, handle.pid, "one")
    os.kill(shim_of(tmp_path, "one"), signal.SIGKILL)
    assert await runtime.wait(handle) == Exit(None)
    await eventually(gone(handle.pid))
    await eventually(gone(child))


async def test_a_stuck_shim_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(), b"")
    os.kill(shim_of(tmp_path, "one"), signal.SIGSTOP)
    assert await runtime.stop(handle, 0) == Exit(None)
    await eventually(gone(handle.pid))


@pytest.mark.parametrize(
    "forged",
    ["{boot}\n{pid} 1\n{pid} 1\n1\n", "another-boot\n{pid} {ticks}\n{pid} {ticks}\n1\n", "half a han"],
    ids=["later process", "earlier boot", "torn file"],
)
async def test_a_process_that_only_bears_the_id_of_the_engine_is_left_alone(tmp_path: Path, forged: str) -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        ticks = start_ticks(bystander.pid)
        assert ticks is not None
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "handle").write_text(forged.format(boot=boot_id(), pid=bystander.pid, ticks=ticks))
        runtime = make(tmp_path)
        for started in (ticks_to_s(1), ticks_to_s(ticks)):
            assert await runtime.stop(Handle("one", bystander.pid, started), 0) == Exit(None)
        assert await runtime.running() == []
        assert bystander.poll() is None
        bystander.kill()
    assert list((tmp_path / "one").iterdir()) == []


async def test_twenty_rounds_leave_nothing_but_the_log(tmp_path: Path) -> None:
    before = own_children()
    for _ in range(20):
        runtime = make(tmp_path)
        handle = await runtime.start("one", fake_launch(children=1), b"note")
        await runtime.stop(handle, 0)
    assert processes_of(tmp_path) == []
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["log"]
    assert own_children() == before


async def test_a_log_does_not_grow_for_ever_and_keeps_its_end(tmp_path: Path) -> None:
    runtime = make(tmp_path, log_bytes=100_000)
    await runtime.wait(await runtime.start("one", fake_launch(write_bytes=1_000_000, say=["first"], crash=0), b""))
    sizes = [file.stat().st_size for file in (tmp_path / "one").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 100_000
    assert (await runtime.last_lines("one", 200))[-1] == f"{9_999:099d}"
    assert len(await runtime.last_lines("one", 500)) == 500


async def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    runtime = make(tmp_path, keep_logs=1)
    for name in ("older", "newer"):
        await runtime.wait(await runtime.start(name, fake_launch(crash=0), b""))
    await runtime.running()
    assert [path.name for path in tmp_path.iterdir()] == ["newer"]


async def test_an_engine_gets_a_minimal_environment(tmp_path: Path) -> None:
    os.environ["NEBULA_TEST__SECRET"] = "hidden"
    os.environ["PASSED_ON"] = "yes"
    try:
        runtime = make(tmp_path, pass_env=["PASSED_ON"])
        await runtime.wait(await runtime.start("one", Launch(("env",), {"CUDA_VISIBLE_DEVICES": "0,1", "EMPTY": ""}), b""))
    finally:
        del os.environ["NEBULA_TEST__SECRET"], os.environ["PASSED_ON"]
    lines = await runtime.last_lines("one", 100)
    assert {"CUDA_VISIBLE_DEVICES=0,1", "EMPTY=", "PASSED_ON=yes"} <= set(lines)
    names = {line.partition("=")[0] for line in lines}
    assert names <= {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "CUDA_VISIBLE_DEVICES", "EMPTY", "PASSED_ON"}


async def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    await runtime.wait(await runtime.start("one", Launch(("printf", "<%s>\n", "", "a b", "é\udcff", "$HOME")), b""))
    log = (tmp_path / "one" / "log").read_bytes()
    assert log.endswith("<>\n<a b>\n<é".encode() + b"\xff>\n<$HOME>\n")


async def test_an_engine_inherits_no_open_file_of_the_daemon_and_may_open_many(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        runtime = make(tmp_path)
        await runtime.wait(await runtime.start("one", Launch(("sh", "-c", "ls /proc/$$/fd; ulimit -S -n; ulimit -H -n")), b""))
    finally:
        os.close(reader)
        os.close(writer)
    *fds, soft, hard = await runtime.last_lines("one", 100)
    assert {"0", "1", "2"} <= set(fds)
    assert len(fds) <= 4  # the shell may keep one of its own
    assert str(reader) not in fds
    assert hard == "unlimited" or int(soft) == min(int(hard), 1024 * 1024)


async def test_a_file_that_is_not_executable_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("data")
    with pytest.raises(LaunchError, match=f"cannot start {program}: Permission denied"):
        await make(tmp_path / "engines").start("one", Launch((str(program),)), b"")
    program.chmod(0o755)
    with pytest.raises(LaunchError, match="Exec format error"):
        await make(tmp_path / "engines").start("one", Launch((str(program),)), b"")
    assert processes_of(tmp_path) == []


async def test_a_data_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=str(tmp_path / "file")):
        await make(tmp_path / "file").start("one", fake_launch(), b"")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é"])
async def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LaunchError, match="cannot name an engine"):
        await make(tmp_path).start(name, fake_launch(), b"")


@pytest.mark.parametrize("launch", [Launch(()), Launch(("",)), Launch(("true", "a\0b"))])
async def test_a_launch_that_makes_no_sense_is_refused(tmp_path: Path, launch: Launch) -> None:
    with pytest.raises(LaunchError):
        await make(tmp_path).start("one", launch, b"")


async def test_a_start_that_is_cancelled_leaves_no_unknown_engine(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await runtime.start("one", fake_launch(), b"")

    async def settled() -> bool:
        return processes_of(tmp_path) == [] or await runtime.running() != []

    await eventually(settled)
    for handle in await runtime.running():
        await runtime.stop(handle, 0)


async def test_files_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(), b"a key")
    assert (tmp_path / "one").stat().st_mode & 0o077 == 0
    await runtime.stop(handle, 30)


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="log_byte"):
        ProcessSettings.model_validate({"log_byte": 5})


async def test_what_somebody_else_put_into_the_data_folder_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "stray" / "folder").mkdir(parents=True)
    (tmp_path / "stray" / "exit").mkdir()
    runtime = make(tmp_path)
    handle = await runtime.start("one", fake_launch(), b"")
    try:
        (tmp_path / "one" / "notes").mkdir()
        assert await runtime.running() == [handle]
    finally:
        await runtime.stop(handle, 0)
    assert await runtime.running() == []
    assert (tmp_path / "stray" / "folder").is_dir()
    assert (tmp_path / "one" / "notes").is_dir()


async def test_a_log_can_be_found_once_there_is_one(tmp_path: Path) -> None:
    runtime = make(tmp_path)
    assert runtime.log_of("one") == ""
    await runtime.stop(await runtime.start("one", fake_launch(), b""), 0)
    assert runtime.log_of("one") == str(tmp_path / "one" / "log")
