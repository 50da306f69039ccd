"""`ProcessRuntime`: starts each engine under a shim, finds it again after a restart of the daemon, waits for it and ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from nebula_core import Exit, Handle, Launch, LaunchError, Runtime
from nebula_runtime_process.folder import NAME, Folder, Record
from nebula_runtime_process.process import boot_id, collect, ended, opened, opened_writers, readable

_SHIM = Path(__file__).with_name("shim.py")
_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ")
"""What an engine gets of the daemon's environment."""
_SHIM_PATIENCE_S = 5.0
"""How long a shim may take to end an engine by force; one that takes longer is stuck itself, and killed."""


class ProcessRuntime(Runtime):
    """Engines as processes under `data_dir`, each in a folder named for it."""

    def __init__(self, data_dir: Path, *, log_bytes: int, keep_logs: int, pass_env: tuple[str, ...], logger: logging.Logger) -> None:
        self._data_dir = data_dir
        self._log_bytes = log_bytes
        self._keep_logs = keep_logs
        self._env_names = _ENV + pass_env
        self._logger = logger
        self._boot_id = boot_id()
        self._exits: dict[str, tuple[int, float, Exit]] = {}
        """Last known end per name: pid, start, exit."""
        self._starting: set[str] = set()

    async def start(self, name: str, launch: Launch, note: bytes) -> Handle:
        """Start the program under a shim. Raises `LaunchError` naming the program or the folder that is at fault."""
        folder = self._folder(name)
        payload = _payload(launch, self._environment(launch.env))
        record = folder.record()
        if name in self._starting or (record is not None and record.runs(self._boot_id)):
            raise LaunchError(f'an engine named "{name}" runs already; stop it first')
        self._starting.add(name)
        try:
            return await self._start(folder, launch.argv[0], payload, note)
        except OSError as error:
            raise LaunchError(f"cannot start {launch.argv[0]}: {error.filename or folder.path}: {error.strerror}") from error
        finally:
            self._starting.discard(name)

    async def running(self) -> list[Handle]:
        """Everything that runs; folders of what ended are cleared, and all but the newest logs removed."""
        if not self._data_dir.is_dir():
            return []
        found = []
        ended_folders = []
        for path in sorted(path for path in self._data_dir.iterdir() if path.is_dir() and path.name not in self._starting):
            folder = Folder(path)
            record = folder.record()
            if record is not None and record.runs(self._boot_id):
                found.append(folder.handle(record))
                continue
            if record is not None:
                await self._ended(folder.handle(record), record)
            try:
                folder.clear()
            except OSError as error:  # what somebody else put here must not keep the engines from being found
                self._logger.warning("%s is no folder of an engine and is left alone: %s", path, error)
                continue
            ended_folders.append(folder)
        self._forget_logs(ended_folders)
        return found

    async def wait(self, handle: Handle) -> Exit:
        """Wait for its end. The exit code is `None` where its shim was killed too, or it ended before this boot."""
        async with self._watched(handle) as (record, shim):
            if shim is not None:
                await ended(shim)
            return await self._ended(handle, record)

    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """SIGTERM to its process group, SIGKILL after `grace_s` seconds; then nothing that it started is left."""
        async with self._watched(handle) as (record, shim):
            if shim is not None:
                await self._end(shim, grace_s)
            return await self._ended(handle, record)

    async def last_lines(self, name: str, count: int) -> list[str]:
        """The last lines of its last run."""
        return self._folder(name).last_lines(count)

    def log_of(self, name: str) -> str:
        """The path of its log, which may have a `log.old` beside it."""
        log = self._folder(name).log
        return str(log) if log.exists() else ""

    def _folder(self, name: str) -> Folder:
        if not NAME.fullmatch(name) or name in (".", ".."):
            raise LaunchError(f'"{name}" cannot name an engine: use letters, digits, ".", "_" and "-"')
        return Folder(self._data_dir / name)

    def _environment(self, asked: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in self._env_names if name in os.environ}
        return {"PATH": os.defpath, **kept, **asked}

    async def _start(self, folder: Folder, program: str, payload: bytes, note: bytes) -> Handle:
        folder.prepare(note)
        answer, _, errno = (await self._spawn(folder, payload)).partition(" ")
        record = folder.record()
        if answer == "started" and record is not None:
            return folder.handle(record)
        folder.clear()
        why = os.strerror(int(errno)) if errno else "its shim failed: " + " | ".join(folder.last_lines(5))
        raise LaunchError(f"cannot start {program}: {why}")

    async def _spawn(self, folder: Folder, payload: bytes) -> str:
        """Start the shim and return its one line; the empty string if it ended without.

        The shim is our child and collected by whoever waits for it (`process.opened`): were it left to process 1, it would stay a
        zombie in a container whose process 1 collects none. If this is cancelled before the line is read, the shim undoes its start.
        """
        with contextlib.ExitStack() as open_fds:
            launch, log = os.memfd_create("launch"), os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            reader, writer = os.pipe()
            for fd in (launch, log, reader):
                open_fds.callback(os.close, fd)
            os.write(launch, payload)
            os.lseek(launch, 0, os.SEEK_SET)
            try:
                pid = self._spawn_shim(folder, launch, writer, log)
            finally:
                os.close(writer)
            await readable(reader)
            answer = os.read(reader, 256).decode()
        if not answer.startswith("started"):
            await _collect_child(pid)
        return answer.strip()

    def _spawn_shim(self, folder: Folder, launch: int, report: int, log: int) -> int:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(_SHIM), str(folder.path), str(self._log_bytes)],
            {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},  # some builds of Python need it to start
            file_actions=[(os.POSIX_SPAWN_DUP2, launch, 0), (os.POSIX_SPAWN_DUP2, report, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            setsid=True,
            setsigmask=(),
        )

    @contextlib.asynccontextmanager
    async def _watched(self, handle: Handle) -> AsyncIterator[tuple[Record | None, int | None]]:
        """The record of this very start and a pidfd of its shim; `None` where it is gone."""
        record = self._folder(handle.name).record()
        if record is None or not record.is_of(handle) or record.boot_id != self._boot_id:
            yield None, None
            return
        with opened(record.shim_pid, record.shim_ticks) as shim:
            yield record, shim

    async def _end(self, shim: int, grace_s: float) -> None:
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGUSR1, _SHIM_PATIENCE_S), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(shim, number)
            if await ended(shim, patience_s):
                return

    async def _ended(self, handle: Handle, record: Record | None) -> Exit:
        """Note how it ended and clear its folder, once; `wait` and `stop` may both be waiting for it."""
        known = self._exits.get(handle.name)
        if known is not None and known[:2] == (handle.pid, handle.started):
            return known[2]
        if record is None:
            return Exit(None)
        folder = self._folder(handle.name)
        ending = folder.exit()
        if ending.code is None:
            await self._end_leftover(record)
        if folder.record() == record:  # else the other one who waited has cleared it, and the next start may be under way
            folder.clear()
        self._exits[handle.name] = (handle.pid, handle.started, ending)
        return ending

    async def _end_leftover(self, record: Record) -> None:
        """End what outlived a shim that was killed. The kernel kills the engine with its shim, but not the engine's own children."""
        if record.boot_id != self._boot_id:
            return
        with opened_writers(record.pipe) as processes:
            for process in processes:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            for process in processes:
                await ended(process, _SHIM_PATIENCE_S)

    def _forget_logs(self, folders: list[Folder]) -> None:
        newest_first = sorted(folders, key=lambda folder: folder.path.stat().st_mtime, reverse=True)
        for folder in newest_first[self._keep_logs :]:
            self._logger.info("removed the old log %s", folder.log)
            folder.remove()


async def _collect_child(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            await ended(pidfd)
        finally:
            collect(pidfd)
            os.close(pidfd)


def _payload(launch: Launch, env: Mapping[str, str]) -> bytes:
    """The launch as the shim reads it: number of arguments, arguments, environment, each closed by a zero byte."""
    words = [str(len(launch.argv)), *launch.argv, *(f"{name}={value}" for name, value in env.items())]
    if not launch.argv or not launch.argv[0]:
        raise LaunchError("the engine gave no program to start")
    if any("\0" in word for word in words):
        raise LaunchError(f"cannot start {launch.argv[0]}: an argument or variable holds a zero byte")
    return b"".join(os.fsencode(word) + b"\0" for word in words)
