"""The last routing table on disk, for a gateway that starts while the store does not answer.

The file holds the engines' keys: it is for its owner alone. It is replaced as a whole, so that nobody ever reads half of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import msgspec

from nebula_core import files
from nebula_core.router.routes import ModelRoute

FILE = "gateway.table"
SCHEMA_VERSION = 1
KEEP_EVERY_S = 1.0
"""Shortest time between two writes."""
MOST_BYTES = 256 * 1024 * 1024


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A routing table as it was in force."""

    schema_version: int
    revision: int
    """The store's revision that it stems from."""
    models: tuple[ModelRoute, ...]


class KeptTable:
    """The table in `folder`. Only what came from the store may be kept, for a table without models is a table too."""

    def __init__(self, folder: Path, logger: logging.Logger) -> None:
        self._file, self._logger = folder / FILE, logger
        self._newest: Table | None = None
        self._written: Table | None = None
        self._some = asyncio.Event()
        self._writing = threading.Lock()
        self._failing = False

    def read(self) -> Table | None:
        """The table that was kept last; `None` if there is none that can be used, which is logged unless there is none at all."""
        try:
            data = _read(self._file)
            table = msgspec.msgpack.decode(data, type=Table)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._logger.warning("the routing table in %s cannot be used: %s; the file may be deleted", self._file, error)
            return None
        if table.schema_version != SCHEMA_VERSION:
            self._logger.warning("the routing table in %s is of schema %d, not %d", self._file, table.schema_version, SCHEMA_VERSION)
            return None
        return table

    def keep(self, models: Mapping[str, ModelRoute], revision: int) -> None:
        """Have this table written soon, if it is another one than the last."""
        self._newest = Table(schema_version=SCHEMA_VERSION, revision=revision, models=tuple(models.values()))
        self._some.set()

    async def run(self) -> NoReturn:
        """Write what is to be kept, off the event loop, for ever; what is left at the end is written then."""
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                await asyncio.to_thread(self._write)
                await asyncio.sleep(KEEP_EVERY_S)
        finally:
            self._write()

    def _write(self) -> None:
        """Write the newest table unless it is in the file. One at a time: a thread may still be at it when the end has come."""
        with self._writing:
            table = self._newest
            if table is None or table == self._written:
                return
            try:
                # On the disk before it takes the old one's place: a power failure may be what takes the store away.
                files.replace(self._file, msgspec.msgpack.encode(table))
            except OSError as error:
                if not self._failing:
                    self._logger.warning("the routing table cannot be kept in %s, for a start without the store: %s", self._file, error)
                self._failing = True
            else:
                self._written, self._failing = table, False


def _read(file: Path) -> bytes:
    if file.stat().st_size > MOST_BYTES:
        raise OSError(f"it is larger than {MOST_BYTES} bytes")
    return file.read_bytes()
