"""The file of the embedded store: keys without a lease, and a reserve of revisions, in SQLite.

Every commit is synced to the disk (`synchronous=FULL`): what an operator was told is done must outlast a power cut, and the
control plane writes a few times a second, so that a sync each is affordable. The calls block: they belong on a thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nebula_core.errors import StoreError, StoreUnavailable
from nebula_core.interfaces import Entry

_FORMAT = 1
_SCHEMA = (
    "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL)",
    "CREATE TABLE reserve (revision INTEGER NOT NULL)",
    "INSERT INTO reserve VALUES (0)",
    f"PRAGMA user_version = {_FORMAT}",
)


class Database:
    """An open file. All calls must come from the thread that opened it."""

    def __init__(self, path: Path) -> None:
        """Open `path`, or make it readable by its owner alone, for it holds the engines' keys. Raises `StoreError`."""
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with self._translated():
            self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._translated():
            self._connection.close()

    def entries(self) -> list[Entry]:
        """All entries. Raises `StoreError` if the file is damaged."""
        with self._translated():
            rows = self._connection.execute("SELECT key, value, create_revision, mod_revision FROM entries").fetchall()
        return [Entry(*row) for row in rows]

    def reserved(self) -> int:
        """The revision up to which any may have been handed out."""
        with self._translated():
            return int(self._connection.execute("SELECT revision FROM reserve").fetchone()[0])

    def commit(self, puts: Iterable[Entry], deletes: Iterable[str], reserve: int | None) -> None:
        """Write entries, delete keys and raise the reserve, all or nothing. Raises `StoreUnavailable` if the disk refuses."""
        with self._translated(), self._transaction() as run:
            run.executemany("DELETE FROM entries WHERE key = ?", ((key,) for key in deletes))
            run.executemany("REPLACE INTO entries VALUES (?, ?, ?, ?)", ((e.key, e.value, e.create_revision, e.mod_revision) for e in puts))
            if reserve is not None:
                run.execute("UPDATE reserve SET revision = ?", (reserve,))

    def _prepare(self) -> None:
        with self._translated():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if found > _FORMAT:
                raise StoreError(f"{self._path} was written by a newer Nebula (format {found}, this one knows {_FORMAT}); install that one")
            if found == 0:
                with self._transaction() as run:
                    for statement in _SCHEMA:
                        run.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(
                f"the store's file {self._path} cannot be used: {error}; look at the disk's space, health and permissions"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"the store's file {self._path} is damaged: {error}. Put a backup in its place, or move it away together with the "
                "-wal and -shm files beside it: Nebula then starts empty, takes the models from its settings and adopts running engines."
            ) from error
