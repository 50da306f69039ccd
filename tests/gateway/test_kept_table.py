"""The routing table on disk, for a start without the store."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from nebula_core.background import background
from nebula_core.gateway.kept_table import FILE, KeptTable
from nebula_core.router.routes import ModelRoute, Route

ROUTE = Route(model_uid="m", replica_id="0", assignment_version="a", incarnation=1, url="http://127.0.0.1:1", api_key="secret")
MODELS = {"m": ModelRoute(model_uid="m", aliases=("alias",), routes=(ROUTE,))}


@pytest.fixture
def kept(tmp_path: Path) -> KeptTable:
    return KeptTable(tmp_path, logging.getLogger("test"))


async def keep(kept: KeptTable, models, revision: int) -> None:
    async with background(kept.run()):
        kept.keep(models, revision)
        await asyncio.sleep(0)


async def test_the_last_table_is_there_for_the_next_start_and_for_nobody_else(kept, tmp_path):
    await keep(kept, MODELS, 6)
    await keep(kept, {**MODELS, "n": ModelRoute(model_uid="n")}, 7)
    table = KeptTable(tmp_path, logging.getLogger("test")).read()
    assert (table.revision, table.models) == (7, (MODELS["m"], ModelRoute(model_uid="n")))
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


async def test_a_table_is_written_while_the_gateway_runs(kept, until):
    async with background(kept.run()):
        kept.keep(MODELS, 7)
        await until(kept.read)


async def test_nothing_that_was_never_read_from_the_store_replaces_what_is_kept(kept, tmp_path):
    await keep(kept, MODELS, 7)
    async with background(KeptTable(tmp_path, logging.getLogger("test")).run()):
        await asyncio.sleep(0)
    assert kept.read().models == tuple(MODELS.values())


def test_without_a_file_there_is_no_table_and_nothing_to_say(kept, caplog):
    assert kept.read() is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no table",
        b"\x91" * 5000,
        msgspec.msgpack.encode({"schema_version": 2, "revision": 1, "models": []}),
        msgspec.msgpack.encode([]),
    ],
)
def test_a_damaged_or_foreign_file_is_ignored_with_a_message(kept, tmp_path, caplog, data):
    (tmp_path / FILE).write_bytes(data)
    assert kept.read() is None
    assert str(tmp_path / FILE) in caplog.text


async def test_a_folder_that_cannot_be_written_to_is_said_once_and_goes_on(tmp_path, caplog):
    kept = KeptTable(tmp_path / "missing", logging.getLogger("test"))
    await keep(kept, MODELS, 7)
    await keep(kept, MODELS, 8)
    assert caplog.text.count("cannot be kept") == 1
