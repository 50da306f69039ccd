"""Pages of exporters on the admin port: open to anybody, and harmless when they are slow or broken."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nebula_core import Exporter
from nebula_core.errors import PluginError

STRANGER = {"authorization": "", "host": "scraped.by.any.name:9", "origin": "http://elsewhere.org"}


class Lab(Exporter):
    """Writes names; can be held up, and counts how many are at it."""

    def __init__(self, path: str = "/metrics") -> None:
        self.path = path
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.at_it = self.most_at_it = 0

    def page(self, snapshot, accept):
        self.at_it += 1
        self.most_at_it = max(self.most_at_it, self.at_it)
        self.begun.set()
        assert self.go_on.wait(20)
        self.at_it -= 1
        return "text/lab", f"{accept} {[family.name for family in snapshot]}".encode()


class Broken(Exporter):
    def page(self, snapshot, accept):
        raise RuntimeError("this exporter is broken")


async def test_anybody_may_read_a_page(serve_admin):
    async with serve_admin(exporters={"lab": Lab()}) as nebula:
        nebula.metrics.counter("lab_total", "Lab.").labels().inc()
        answer = await nebula.http.get("/metrics", headers={**STRANGER, "accept": "a/b"})
        assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, "text/lab", "a/b ['lab_total']")


async def test_without_an_exporter_there_is_no_page(nebula):
    assert (await nebula.http.get("/metrics")).status_code == 404
    assert (await nebula.http.get("/metrics", headers=STRANGER)).status_code == 403


@pytest.mark.parametrize("path", ["/metrics/", "/metrics/x", "//metrics", "/admin/v1/metrics/snapshot"])
async def test_only_the_page_itself_is_open(serve_admin, path):
    async with serve_admin(exporters={"lab": Lab()}) as nebula:
        assert (await nebula.http.get(f"{nebula.url}{path}", headers={"authorization": ""})).status_code == 401


async def test_a_page_that_takes_long_holds_up_nothing_else_and_is_made_once_at_a_time(serve_admin):
    lab = Lab()
    lab.go_on.clear()
    async with serve_admin(exporters={"lab": lab}) as nebula, asyncio.TaskGroup() as group:
        pages = [group.create_task(nebula.http.get("/metrics")) for _ in range(3)]
        await asyncio.to_thread(lab.begun.wait, 20)
        assert (await nebula.http.get("/health")).status_code == 200
        lab.go_on.set()
        assert [(await page).status_code for page in pages] == [200] * 3
    assert lab.most_at_it == 1


async def test_an_exporter_that_fails_is_named_in_the_log(serve_admin, caplog):
    async with serve_admin(exporters={"broken": Broken()}) as nebula:
        answer = await nebula.http.get("/metrics")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "exporter_failed")
        assert (await nebula.http.get("/health")).status_code == 200
    assert "the exporter 'broken' failed" in caplog.text


@pytest.mark.parametrize(
    ("exporters", "why"),
    [
        ({"a": Lab(), "b": Lab()}, 'exporter "b" .*"/metrics" .*belongs to the exporter "a"'),
        ({"a": Lab("/health")}, 'exporter "a" .*"/health" .*belongs to the admin API'),
        ({"a": Lab("metrics")}, 'exporter "a" .*"metrics" .*begins with /'),
    ],
)
async def test_a_path_that_cannot_be_served_stops_the_start(serve_admin, exporters, why):
    with pytest.raises(PluginError, match=why):
        async with serve_admin(exporters=exporters):
            pass
