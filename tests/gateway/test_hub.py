"""What the control side tells its workers, and what it makes of what they tell."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

from nebula_core.gateway import link
from nebula_core.gateway.hub import WorkerHub
from nebula_core.gateway.peer_link import Report
from nebula_core.gateway.report import MOST_UNSENT, Reporter
from nebula_core.gateway.sockets import short_name
from nebula_core.interfaces import Considered, Explanation
from nebula_core.metrics import Metrics
from nebula_core.router.candidate import Candidate
from nebula_core.router.events import Lost, RouteEvent, RouteRequest
from nebula_core.router.routes import ModelRoute, Route
from nebula_core.types import EndpointStats

pytestmark = pytest.mark.asyncio

ROUTE = Route(model_uid="m", replica_id="0", assignment_version="a", incarnation=1, url="http://127.0.0.1:1")
TABLE = {"m": ModelRoute(model_uid="m", routes=(ROUTE,))}
BLOCKS = RouteRequest("r", "m", "/v1/completions", b'{"model":"m","prompt":"' + b"x" * 2000 + b'"}').blocks()
STATS = EndpointStats(running=3, pending=0, incarnation=1)


class FakeWorker:
    """A worker's end of the link, without a data path."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def next(self) -> link.Down:
        async with asyncio.timeout(5):
            return await link.read_down(self.reader)

    async def next_of(self, type_):
        while not isinstance(message := await self.next(), type_):
            continue
        return message

    def tell(self, message: link.Up) -> None:
        link.write(self.writer, message)


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def hub(stack, tmp_path):
    return await stack.enter_async_context(WorkerHub(tmp_path / "gateway.sock", "now", b"{}", 3.0, logging.getLogger("test")))


@pytest.fixture
def connect(stack, hub, tmp_path):
    async def connect(slot: int = 0, pid: int = 1, generation: str = "now") -> FakeWorker:
        with short_name(tmp_path / "gateway.sock") as name:
            reader, writer = await asyncio.open_unix_connection(name)
        stack.callback(writer.close)
        worker = FakeWorker(reader, writer)
        worker.tell(link.Hello(pid=pid, slot=slot, generation=generation))
        return worker

    return connect


def requests(hub) -> float:
    return sum(sample.value for family in hub.snapshot() if family.name == "requests" for sample in family.samples)


def counted(value: float) -> link.MetricsReport:
    metrics = Metrics()
    metrics.counter("requests", "Requests.").labels().inc(value)
    metrics.gauge("in_flight", "In flight.").labels().set(value)
    return link.MetricsReport(metrics.snapshot())


async def test_a_worker_gets_the_settings_and_the_whole_table_with_its_stats(hub, connect):
    hub.publish_stats({("m", "0"): STATS})
    hub.publish_table(TABLE, 7)
    worker = await connect()
    assert await worker.next() == link.Welcome(b"{}")
    assert await worker.next() == link.Table(revision=7, whole=True, models=tuple(TABLE.values()))
    assert await worker.next() == link.Stats((("m", "0", STATS),))


async def test_stats_that_were_known_before_the_replica_was_routed_to_come_with_it(hub, connect):
    hub.publish_table({}, 1)
    worker = await connect()
    await worker.next_of(link.Stats)
    hub.publish_stats({("m", "0"): STATS})
    await worker.next_of(link.Stats)
    hub.publish_table(TABLE, 2)
    assert (await worker.next_of(link.Table)).models == tuple(TABLE.values())
    assert await worker.next() == link.Stats((("m", "0", STATS),))


async def test_a_worker_left_behind_is_asked_to_go(hub, connect):
    worker = await connect(generation="before")
    assert await worker.next() == link.Retire(3.0, hand_over=True)


async def test_a_worker_that_comes_while_the_gateway_stops_is_asked_to_go(hub, connect):
    hub.retire()
    worker = await connect()
    assert await worker.next() == link.Retire(3.0)


async def test_the_applied_revision_is_the_oldest_that_any_worker_routes_by(hub, connect, until):
    hub.publish_table(TABLE, 7)
    first, second = await connect(slot=0), await connect(slot=1, pid=2)
    first.tell(link.Applied(7))
    second.tell(link.Applied(5))
    await until(lambda: hub.connected == 2)
    assert hub.applied_revision == 5
    second.writer.close()
    await until(lambda: hub.connected == 1)
    assert hub.applied_revision == 5, "it may route on, although it is not connected"


async def test_each_worker_hears_of_the_others_charges_and_of_lost_replicas(hub, connect, until):
    hub.publish_table(TABLE, 7)
    first, second = await connect(slot=0), await connect(slot=1, pid=2)
    await second.next_of(link.Stats)
    first.tell(link.Charges((("m", "0", 4),)))
    assert await second.next_of(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 4),))
    first.tell(link.Failures((Lost("m", "0", 1),)))
    assert await second.next_of(link.Suspects) == link.Suspects((Lost("m", "0", 1),))
    events = link.Events((RouteEvent(kind="charged", model_uid="m", replica_id="0", incarnation=1, at=1.0, prefix_blocks=BLOCKS),))
    first.tell(events)
    assert await second.next_of(link.Events) == events
    first.writer.close()
    assert await second.next_of(link.ChargesElsewhere) == link.ChargesElsewhere((("m", "0", 0),))
    await until(lambda: not +hub.in_flight())


def event(kind: str, request_id: str) -> RouteEvent:
    return RouteEvent(kind=kind, model_uid="m", replica_id="0", incarnation=1, request_id=request_id, at=1.0)


def ended(message: link.Events) -> set[tuple[str, str]]:
    return {(event.kind, event.request_id) for event in message.events}


async def test_the_requests_of_a_worker_that_dies_are_ended_for_all_who_heard_of_them(hub, connect, until):
    reports = []
    hub.report_to(reports.append)
    hub.publish_table(TABLE, 7)
    dying, other = await connect(slot=0), await connect(slot=1, pid=2)
    dying.tell(link.Events((event("charged", "over"), event("finished", "over"), event("charged", "answered"))))
    dying.tell(link.Events((event("first_token", "answered"), event("charged", "waits"))))
    await other.next_of(link.Events)
    await other.next_of(link.Events)
    dying.writer.close()
    assert ended(await other.next_of(link.Events)) == {("failed", "answered"), ("failed", "waits")}
    await until(lambda: [each.kind for report in reports for each in report.events].count("failed") == 2)


async def test_the_requests_of_a_gateway_that_is_gone_are_ended_for_the_workers(hub, connect):
    hub.publish_table(TABLE, 7)
    worker = await connect()
    await worker.next_of(link.Stats)
    hub.take_from_peer("peer", Report(0.0, events=(event("charged", "r"),)))
    await worker.next_of(link.Events)
    hub.forget_peer("peer")
    assert ended(await worker.next_of(link.Events)) == {("failed", "r")}


class FullWriter:
    """A connection whose other side does not read, as long as `unsent` says so."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.unsent, self.transport = MOST_UNSENT, self
        self.write, self.is_closing = writer.write, writer.is_closing

    def get_write_buffer_size(self) -> int:
        return self.unsent


async def test_a_worker_whose_events_are_not_read_has_its_requests_ended_once_they_are(hub, connect, until):
    hub.publish_table(TABLE, 7)
    worker, other = await connect(slot=0), await connect(slot=1, pid=2)
    await other.next_of(link.Stats)
    worker.tell(link.Events((event("charged", "r"),)))
    await other.next_of(link.Events)
    router, writer = FakeRouter(), FullWriter(worker.writer)
    router.shared = [event("finished", "r")]
    reporting = asyncio.create_task(Reporter(router, Metrics()).run(writer))
    await until(lambda: not router.shared)
    writer.unsent = 0
    assert ended(await other.next_of(link.Events)) == {("failed", "r")}
    reporting.cancel()


async def test_several_workers_are_asked_for_what_strategies_learn_and_a_single_one_is_not(stack, tmp_path):
    for workers, asked in ((2, True), (1, False)):
        path = tmp_path / f"{workers}.sock"
        hub = await stack.enter_async_context(WorkerHub(path, "now", b"{}", 3.0, logging.getLogger("test"), workers=workers))
        hub.publish_table(TABLE, 7)
        with short_name(path) as name:
            worker = FakeWorker(*await asyncio.open_unix_connection(name))
        stack.callback(worker.writer.close)
        worker.tell(link.Hello(pid=1, slot=0, generation="now"))
        assert await worker.next() == link.Welcome(b"{}")
        assert (await worker.next() == link.ShareEvents(True)) is asked


async def test_counts_survive_a_worker_once_and_gauges_do_not(hub, connect, until):
    worker = await connect(pid=1)
    worker.tell(counted(100))
    await until(lambda: requests(hub) == 100)
    worker.writer.close()
    again = await connect(pid=1)  # the same process, after it lost the link
    again.tell(counted(101))
    await until(lambda: requests(hub) == 101)
    again.writer.close()
    replaced = await connect(pid=2)
    replaced.tell(counted(5))
    await until(lambda: requests(hub) == 106)
    assert [sample.value for family in hub.snapshot() if family.name == "in_flight" for sample in family.samples] == [5]


async def test_what_is_no_message_ends_that_connection_alone(hub, connect):
    hub.publish_table(TABLE, 7)
    good, bad = await connect(slot=0), await connect(slot=1, pid=2)
    bad.writer.write(b"\x00\x00\x00\x03abc")
    async with asyncio.timeout(5):
        await bad.reader.read()  # until its end
    await good.next_of(link.Stats)
    hub.publish_stats({("m", "0"): STATS})
    assert await good.next() == link.Stats((("m", "0", STATS),))


def decision(at: float) -> Explanation:
    candidates = (Considered("0", {"wait_s": 0.5}), Considered("1"))
    return Explanation(request_id="r", model_uid="m", at=at, picked="0", reason="prefix_hit", candidates=candidates)


async def test_a_question_goes_to_every_worker_and_the_answers_come_in_order_of_time(hub, connect, until):
    workers = [await connect(slot=slot, pid=slot) for slot in range(2)]
    left_behind = await connect(slot=2, pid=2, generation="before")
    assert await left_behind.next() == link.Retire(3.0, hand_over=True)
    for worker in workers:
        await worker.next_of(link.Welcome)
    asking = asyncio.create_task(hub.explain("r"))
    for worker, known in zip(workers, [(decision(2.0), decision(3.0)), (decision(1.0),)], strict=True):
        question = await worker.next_of(link.Explain)
        assert question.request_id == "r"
        worker.tell(link.Explanations(question.number + 1, (decision(9.0),)))  # nobody asked that
        worker.tell(link.Explanations(question.number, known))
    assert await asking == ((decision(1.0), decision(2.0), decision(3.0)), 0)


async def test_a_worker_that_is_silent_or_leaves_is_left_out(hub, connect):
    silent, leaving = await connect(slot=0), await connect(slot=1, pid=2)
    for worker in (silent, leaving):
        await worker.next_of(link.Welcome)
    asking = asyncio.create_task(hub.explain("r"))
    await leaving.next_of(link.Explain)
    leaving.writer.close()
    assert await asking == ((), 2)
    late = await silent.next_of(link.Explain)
    silent.tell(link.Explanations(late.number, (decision(1.0),)))
    asking = asyncio.create_task(hub.explain("r"))
    question = await silent.next_of(link.Explain)
    silent.tell(link.Explanations(question.number, ()))
    assert await asking == ((), 0)


async def test_what_waits_at_the_workers_is_added_and_forgotten_with_them(hub, connect, until):
    one, two = await connect(slot=0), await connect(slot=1, pid=2)
    one.tell(link.Waiting((("m", 2, 0),)))
    two.tell(link.Waiting((("m", 3, 0), ("n", 1, 0))))
    await until(lambda: hub.waiting() == {"m": 5, "n": 1})
    assert hub.changed.is_set()
    two.writer.close()
    await until(lambda: hub.waiting() == {"m": 2})


def picks(count: float) -> link.MetricsReport:
    metrics = Metrics()
    metrics.counter("nebula_route_total", "", ("model_uid", "status")).labels("m", "picked").inc(count)
    return link.MetricsReport(metrics.snapshot())


async def test_counts_are_of_our_own_workers_and_outlive_them(hub, connect, until):
    """What a worker has counted that an earlier process left behind did not come in our time."""
    worker, left_behind = await connect(slot=0), await connect(slot=0, pid=2, generation="before")
    worker.tell(picks(3))
    left_behind.tell(picks(1000))
    await until(lambda: hub.counts() and hub.snapshot()[0].samples[0].value == 1003)
    assert hub.counts()["m"].arrivals == 3
    worker.writer.close()
    (await connect(slot=0, pid=3)).tell(picks(4))
    await until(lambda: hub.counts()["m"].arrivals == 7)


class FakeRouter:
    """As much of a router as a reporter looks at."""

    def __init__(self) -> None:
        self.touched: set[Candidate] = set()
        self.failures: list[Lost] = []
        self.shared = None


async def test_a_reporter_tells_counts_of_what_changed_and_zero_once(hub, connect, until):
    router, candidate, worker = FakeRouter(), Candidate(ROUTE), await connect()
    reporter = Reporter(router, Metrics())
    candidate.charge()
    router.touched.add(candidate)
    reporter.tell_charges(worker.writer)
    await until(lambda: hub.in_flight() == {("m", "0"): 1})
    candidate.discharge()
    router.touched.add(candidate)
    reporter.tell_charges(worker.writer)
    await until(lambda: not hub.in_flight())


async def test_two_incarnations_of_a_replica_are_counted_together(hub, connect, until):
    router, worker = FakeRouter(), await connect()
    old, new = Candidate(ROUTE), Candidate(Route(model_uid="m", replica_id="0", assignment_version="a", incarnation=2, url=""))
    reporter = Reporter(router, Metrics())
    for candidate in (old, new):
        candidate.charge()
        router.touched.add(candidate)
    reporter.tell_charges(worker.writer)
    await until(lambda: hub.in_flight() == {("m", "0"): 2})
    new.discharge()
    router.touched.add(new)
    reporter.tell_charges(worker.writer)
    await until(lambda: hub.in_flight() == {("m", "0"): 1})
