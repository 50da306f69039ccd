"""The files of one engine: its handle, its note, its exit status and its log.

    <data_dir>/<name>/handle     boot id, shim and engine (pid and start in clock ticks each), output pipe; written by the shim
                      note       what the node asked to be kept with it
                      exit       exit code, negative for a signal; written by the shim
                      log        what the engine wrote, all runs, each under a heading; `log.old` is what came before

All but the logs are gone once the engine's end has been taken note of.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nebula_core import Exit, Handle
from nebula_runtime_process.process import opened, ticks_to_s

NAME = re.compile(r"[A-Za-z0-9._-]+")
HEADING = "--- nebula: started "
"""A line that begins so parts the runs in a log."""
_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class Record:
    """What a shim has written down about itself and its engine."""

    boot_id: str
    shim_pid: int
    shim_ticks: int
    pid: int
    ticks: int
    pipe: int
    """Inode of the pipe that the engine writes its output to: whoever has it was started by the engine."""

    def is_of(self, handle: Handle) -> bool:
        """Whether it is this very start of the engine."""
        return (self.pid, ticks_to_s(self.ticks)) == (handle.pid, handle.started)

    def runs(self, boot_id: str) -> bool:
        """Whether the shim runs still, and is no later process that was given its id."""
        if self.boot_id != boot_id:
            return False
        with opened(self.shim_pid, self.shim_ticks) as shim:
            return shim is not None


class Folder:
    """The folder of one engine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self._old_log = path / "log.old"
        self._note = path / "note"

    def prepare(self, note: bytes) -> None:
        """Make the folder and clear it of what an earlier start left. Only its owner may read it: a note may hold a key."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.clear()
        self._note.touch(mode=0o600)
        self._note.write_bytes(note)

    def record(self) -> Record | None:
        """What the shim wrote down; `None` if nothing, or nothing that makes sense."""
        try:
            boot_id, *numbers = (self.path / "handle").read_text().split()
            return Record(boot_id, *map(int, numbers))
        except (OSError, ValueError, TypeError):
            return None

    def handle(self, record: Record) -> Handle:
        """The handle of the engine that runs here."""
        note = self._note.read_bytes() if self._note.exists() else b""
        return Handle(self.path.name, record.pid, ticks_to_s(record.ticks), note)

    def exit(self) -> Exit:
        """How the engine ended, as far as its shim could say."""
        try:
            return Exit(int((self.path / "exit").read_text()))
        except (OSError, ValueError):
            return Exit(None)

    def clear(self) -> None:
        """Remove every file but the logs. A folder is none of ours: somebody put it there."""
        for file in self.path.iterdir():
            if file not in (self.log, self._old_log) and not (file.is_dir() and not file.is_symlink()):
                file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and its logs."""
        shutil.rmtree(self.path, ignore_errors=True)

    def last_lines(self, count: int) -> list[str]:
        """The last lines of the last run."""
        text = (_tail(self._old_log) + _tail(self.log)).decode(errors="replace")
        lines = text.splitlines()
        start = max((at + 1 for at, line in enumerate(lines) if line.startswith(HEADING)), default=0)
        return lines[start:][-count:] if count > 0 else []


def _tail(file: Path) -> bytes:
    try:
        with file.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES)
    except FileNotFoundError:
        return b""
