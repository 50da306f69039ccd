"""Metrics pages that lie, stall, end early or have no end: what a node makes of them, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import logging
import tracemalloc
from contextlib import asynccontextmanager

import httpx
import pytest

from nebula_core.exposition import MetricsReader
from nebula_core.interfaces import Health, Probe, Scraper
from nebula_core.node.fetch import MAX_PAGE_BYTES, Failure
from nebula_core.node.health import Inspector, Scrape, Target
from nebula_core.types import EndpointStats

logger = logging.getLogger("test")
TIMEOUT_S = 0.3
GOOD = b"lab_running 3\n"
PIECE = b"lab_running 3\n" * 4096
NEVER = object()


class LabScraper(Scraper):
    """Reads `lab_running`."""

    reader = MetricsReader(["lab_running"], "Lab")

    async def scrape(self, fetch):
        return EndpointStats(running=self.reader.read(await fetch("/metrics"), "/metrics").sum("lab_running"))


class Well(Probe):
    async def probe(self, url, path, api_key):
        return Health(True)


def page(body, *fields, status=b"200 OK", length=None):
    head = b"".join(b"%b\r\n" % field for field in (b"content-length: %d" % (len(body) if length is None else length), *fields))
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, body)


@asynccontextmanager
async def engine(*pieces, endless=b""):
    """A server that answers with these pieces, `NEVER` being a stall, and goes on with `endless` until nobody reads."""

    async def serve(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                if piece is NEVER:
                    await reader.read()
                else:
                    writer.write(piece)
            while endless:
                writer.write(endless)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with httpx.AsyncClient(trust_env=False) as http:
        yield Target("m/0", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "", "/health", Well(), LabScraper()), http
    server.close()


async def scrape(target, http, timeout_s=TIMEOUT_S):
    inspector = Inspector(target, http, timeout_s, logger)
    return await inspector.scrape(asyncio.get_running_loop().time() + timeout_s)


async def test_a_good_page_is_read():
    async with engine(page(GOOD)) as (target, http):
        assert await scrape(target, http, 10) == Scrape(EndpointStats(running=3))


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        ((), Failure.UNREACHABLE),
        ((b"220 mail ready\r\n",), Failure.UNREACHABLE),
        ((page(GOOD, length=50),), Failure.UNREACHABLE),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\nlab",), Failure.UNREACHABLE),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",), Failure.UNREACHABLE),
        ((page(GOOD, status=b"503 Busy"),), Failure.STATUS),
        ((page(b"", b"location: http://127.0.0.1:1/", status=b"302 Found"),), Failure.STATUS),
        ((page(b"<!doctype html><title>Sign in</title>"),), Failure.UNREADABLE),
        ((page(b"lab_running three\n"),), Failure.UNREADABLE),
        ((page(b"lab_running 3\nlab_pen"),), Failure.UNREADABLE),
        ((page(b"lab_running 3\n" * 10_001),), Failure.UNREADABLE),
        ((page(gzip.compress(b"\n" * 50_000_000), b"content-encoding: gzip"),), Failure.UNREADABLE),
        ((page(b"x" * (MAX_PAGE_BYTES + 1)),), Failure.TOO_LARGE),
    ],
    ids=[
        "no answer",
        "not http",
        "ends early",
        "chunk ends early",
        "endless head",
        "error",
        "redirect",
        "login page",
        "no number",
        "half a line",
        "too many samples",
        "bomb",
        "large",
    ],
)
async def test_a_bad_page_is_no_stats_and_the_reason_is_known(pieces, failure):
    async with engine(*pieces) as (target, http):
        assert await scrape(target, http, 10) == Scrape(failure=failure)


@pytest.mark.parametrize("pieces", [(NEVER,), (page(GOOD, length=50), NEVER)], ids=["at once", "half way"])
async def test_a_page_that_stalls_is_given_up_in_time(pieces):
    async with engine(*pieces) as (target, http):
        assert await scrape(target, http) == Scrape(failure=Failure.LATE)


async def test_a_refused_connection_is_unreachable(dead_url):
    async with httpx.AsyncClient(trust_env=False) as http:
        assert await scrape(Target("m/0", dead_url, "", "/health", Well(), LabScraper()), http) == Scrape(failure=Failure.UNREACHABLE)


@pytest.fixture
async def dead_url():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()
    return url


@pytest.mark.parametrize("head", [b"content-length: 52428800", b"transfer-encoding: chunked"])
async def test_a_page_without_end_takes_no_more_memory_than_is_allowed(head):
    piece = PIECE if head.startswith(b"content") else b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
    async with engine(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head, endless=piece) as (target, http):
        tracemalloc.start()
        try:
            assert await scrape(target, http, 20) == Scrape(failure=Failure.TOO_LARGE)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3 * MAX_PAGE_BYTES


async def test_values_that_cannot_be_are_unknown_and_no_failure():
    for lie in (b"-1", b"NaN", b"+Inf", b"1e999"):
        async with engine(page(b"lab_running %b\n" % lie)) as (target, http):
            assert await scrape(target, http, 10) == Scrape(EndpointStats(running=None))
