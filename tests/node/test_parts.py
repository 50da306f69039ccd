import asyncio
import logging
import socket
import string

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.errors import LaunchError, ScrapeError
from nebula_core.interfaces import Health, Probe, Scraper
from nebula_core.node.fetch import MAX_PAGE_BYTES, Failure, make_fetch
from nebula_core.node.health import Inspector, Scrape, Target
from nebula_core.node.note import Note, decode, engine_name
from nebula_core.node.ports import base_url, free_port
from nebula_core.node.publisher import batches
from nebula_core.store import keys
from nebula_core.types import Assignment, EndpointStats, ReplicaSpec

logger = logging.getLogger("test")


@given(st.lists(st.integers(0, 40)), st.integers(2, 9))
def test_what_a_node_writes_is_cut_into_batches_that_tear_no_replica_apart(numbers, size):
    written = [keys.node("n"), *(key(f"m{number}", "0") for number in dict.fromkeys(numbers) for key in (keys.endpoint, keys.stats))]
    cut = list(batches(written, size))
    assert [key for batch in cut for key in batch] == written
    assert all(0 < len(batch) <= size for batch in cut)
    homes = [keys.replica_of(key) for batch in cut for key in {keys.replica_of(key): key for key in batch}.values()]
    assert len(homes) == len(set(homes))


@given(st.tuples(st.text(min_size=1), st.text(min_size=1)))
def test_an_engines_name_is_safe_in_paths_whatever_the_model_is_called(replica):
    name = engine_name(replica)
    assert set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert 0 < len(name) < 100
    assert name[0] not in ".-"


@given(st.lists(st.tuples(st.text("a/-é", min_size=1, max_size=3), st.text("0/-", min_size=1, max_size=2)), unique=True, max_size=20))
def test_every_replica_has_a_name_of_its_own(replicas):
    assert len({engine_name(replica) for replica in replicas}) == len(replicas)


def test_a_note_comes_back_as_it_was_and_what_is_none_is_not_taken_for_one():
    assignment = Assignment(replica_id="0", node_id="n", spec=ReplicaSpec(model_uid="m", engine="fake"), assignment_version="v")
    note = Note(assignment=assignment, incarnation=3, url="http://h:1", port=1, api_key="key")
    assert decode(note.encode()) == note
    assert decode(b"") is None
    assert decode(b'{"incarnation": 3}') is None


def test_a_port_that_is_listened_on_or_given_away_is_passed_over():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = listener.getsockname()[1]
        with pytest.raises(LaunchError, match="engine_ports"):
            free_port("127.0.0.1", first, first, ())
    assert free_port("127.0.0.1", first, first, ()) == first
    with pytest.raises(LaunchError, match="engine_ports"):
        free_port("127.0.0.1", first, first, {first})


def test_an_address_of_another_machine_is_named():
    with pytest.raises(LaunchError, match=r"192\.0\.2\.1.*\[node\] address"):
        free_port("192.0.2.1", 18000, 18001, ())


def test_ipv6_addresses_are_bracketed():
    assert base_url("::1", 80) == "http://[::1]:80"


class Page:
    """A server that answers every request with the same bytes, and remembers the last request."""

    def __init__(self, answer):
        self.answer = answer
        self.request = b""

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.http = httpx.AsyncClient(trust_env=False)
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()
        self.server.close()

    async def serve(self, reader, writer):
        self.request = await reader.readuntil(b"\r\n\r\n")
        if self.answer is not None:
            writer.write(self.answer)
            writer.close()
        else:
            await reader.read()
            writer.close()


async def test_a_page_is_fetched_with_the_engines_key():
    async with Page(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nload") as page:
        assert await make_fetch(page.http, page.url, "secret", 5.0)("/metrics") == b"load"
        assert b"GET /metrics " in page.request
        assert b"authorization: bearer secret" in page.request.lower()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answers 500"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_PAGE_BYTES + 1), "larger than"),
        (None, "did not answer within 0.2 s"),
        (b"not http at all\r\n\r\n", "cannot be read"),
    ],
    ids=["refused", "endless", "silent", "nonsense"],
)
async def test_what_cannot_be_fetched_says_why(answer, message):
    async with Page(answer) as page:
        with pytest.raises(ScrapeError, match=message):
            await make_fetch(page.http, page.url, "", 0.2 if answer is None else 20.0)("/metrics")


class Hanging(Probe, Scraper):
    async def probe(self, url, path, api_key):
        await asyncio.Event().wait()

    async def scrape(self, fetch):
        await asyncio.Event().wait()


class Broken(Probe, Scraper):
    async def probe(self, url, path, api_key):
        raise RuntimeError("a bug")

    async def scrape(self, fetch):
        raise RuntimeError("a bug")


class Changing(Probe, Scraper):
    """Well; its first two stats fail."""

    times = 0

    async def probe(self, url, path, api_key):
        return Health(True)

    async def scrape(self, fetch):
        self.times += 1
        if self.times <= 2:
            raise ScrapeError("no metrics")
        return EndpointStats(pending=1)


def inspector(plugin, http=None):
    target = Target(name="m/0", url="http://127.0.0.1:1", api_key="", health_path="/health", probe=plugin, scraper=plugin)
    return Inspector(target, http, 0.05, logger)


def soon():
    return asyncio.get_running_loop().time() + 0.05


@pytest.mark.parametrize(
    ("plugin", "reason", "failure"), [(Hanging(), "no answer within 0.05 s", Failure.LATE), (Broken(), "a bug", Failure.PLUGIN)]
)
async def test_a_plugin_that_hangs_or_breaks_is_a_failed_probe_and_no_stats(plugin, reason, failure):
    looks = inspector(plugin)
    health = await looks.probe(soon())
    assert not health.ok
    assert reason in health.reason
    assert await looks.scrape(soon()) == Scrape(failure=failure)


async def test_unreadable_stats_are_logged_when_that_changes(caplog):
    looks = inspector(Changing())
    caplog.set_level("INFO")
    failed, read = Scrape(failure=Failure.UNREADABLE), Scrape(EndpointStats(pending=1))
    assert [await looks.scrape(soon()) for _ in range(4)] == [failed, failed, read, read]
    assert [record.message for record in caplog.records] == [
        "m/0: its stats cannot be read: no metrics",
        "m/0: its stats can be read again",
    ]
