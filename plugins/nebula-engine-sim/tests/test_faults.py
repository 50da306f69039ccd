"""Each fault of the timeline, over real HTTP."""

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import httpx
import pytest
from nebula_engine_sim.arguments import SimArgs
from nebula_engine_sim.faults import Fault, Timeline, read_faults
from nebula_engine_sim.server.replica import Replica

from nebula_core.testing.polling import eventually
from nebula_core.testing.ports import free_ports

SCALE = 100.0
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}


@asynccontextmanager
async def replica(*faults, crashed=lambda fault: None, scale=SCALE, start=True):
    """A client of a replica with these faults; a hundred seconds of its timeline are one of ours."""
    [port] = free_ports(1)
    one = Replica("127.0.0.1", port, "sim", "", SimArgs(time_scale=scale), Timeline(faults), crashed)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        if not start:
            yield client, one
            return
        async with one:
            yield client


async def health(client):
    try:
        return (await client.get("/health")).status_code
    except httpx.TransportError:
        return None


async def waiting_on_page(client):
    page = (await client.get("/metrics")).text
    return next(line.split()[-1] for line in page.splitlines() if line.startswith("vllm:num_requests_waiting{"))


async def test_a_crash_breaks_streams_and_closes_the_port():
    crashes = []
    crash = Fault(kind="crash", at_s=3.0, code=7)
    async with replica(crash, crashed=crashes.append, scale=10.0) as client:
        with pytest.raises(httpx.TransportError):
            async with client.stream("POST", "/v1/chat/completions", json={**BODY, "max_tokens": 9999, "stream": True}) as response:
                assert [line async for line in response.aiter_lines()]
        assert await health(client) is None
        assert crashes == [crash]


async def test_a_hung_engine_says_nothing_and_goes_on_afterwards():
    loop = asyncio.get_running_loop()
    async with replica(Fault(kind="hang", at_s=0.0, for_s=50.0)) as client:
        began = loop.time()
        answers = await asyncio.gather(client.get("/health"), client.post("/v1/chat/completions", json=BODY))
        assert loop.time() - began > 0.4
        assert {answer.status_code for answer in answers} == {200}


async def test_a_hang_in_the_middle_of_a_stream_holds_it_up():
    loop = asyncio.get_running_loop()
    gaps, last = [], loop.time()
    async with (
        replica(Fault(kind="hang", at_s=3.0, for_s=5.0), scale=10.0) as client,
        client.stream("POST", "/v1/chat/completions", json={**BODY, "max_tokens": 600, "stream": True}) as response,
    ):
        async for _ in response.aiter_bytes():
            gaps.append(loop.time() - last)
            last = loop.time()
    assert max(gaps) > 0.4


async def test_after_a_slow_start_it_listens():
    async with replica(Fault(kind="slow_start", for_s=50.0), start=False) as (client, one):
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(one.__aenter__())
            assert await health(client) is None

            async def listens():
                return await health(client) == 200

            await eventually(listens)
            await starting
        await one.__aexit__(None, None, None)


async def test_a_stalled_stream_stops_after_its_tokens_and_goes_on_when_the_fault_is_over():
    loop = asyncio.get_running_loop()
    async with (
        replica(Fault(kind="stall", after_tokens=3, for_s=50.0)) as client,
        client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as response,
    ):
        times = [loop.time() async for line in response.aiter_lines() if '"content"' in line]
    gaps = [after - before for before, after in pairwise(times)]
    assert len(times) == 8 + 1  # the first token comes with an event of its own that tells the role
    assert gaps.index(max(gaps)) == 3
    assert max(gaps) > 0.2


async def test_a_burst_of_errors_spares_the_health_page():
    async with replica(Fault(kind="errors", status=503, for_s=1e9)) as client:
        refused = await client.post("/v1/chat/completions", json=BODY)
        assert (refused.status_code, await health(client)) == (503, 200)
        assert "fault on the timeline" in refused.json()["error"]["message"]


async def test_errors_end_with_their_fault():
    async with replica(Fault(kind="errors", for_s=20.0)) as client:

        async def answered():
            return (await client.post("/v1/chat/completions", json=BODY)).status_code == 200

        await eventually(answered)


async def test_frozen_metrics_stay_as_they_were():
    async with replica(Fault(kind="frozen_metrics", at_s=0.0)) as client:
        await client.get("/health")
        before = await client.get("/metrics")
        await client.post("/v1/chat/completions", json=BODY)
        assert (await client.get("/metrics")).content == before.content
        assert "vllm:generation_tokens_total" in before.text


async def test_lying_metrics_say_what_they_are_told_to():
    async with replica(Fault(kind="lying_metrics", values={"vllm:num_requests_waiting": 40})) as client:
        assert await waiting_on_page(client) == "40.0"


def test_time_that_it_hung_is_counted_once():
    timeline = Timeline([Fault(kind="hang", at_s=10, for_s=10), Fault(kind="hang", at_s=15, for_s=10), Fault(kind="hang", at_s=40)])
    assert [timeline.hung_s(now) for now in (5, 12, 30, 50)] == [0, 2, 15, 25]


def test_after_a_crash_the_rest_of_the_timeline_is_left():
    timeline = Timeline([Fault(kind="crash", at_s=5, for_s=5), Fault(kind="errors", at_s=8, for_s=4), Fault(kind="hang", at_s=30)])
    assert timeline.after(10).faults == (Fault(kind="errors", at_s=0, for_s=2), Fault(kind="hang", at_s=20))


@pytest.mark.parametrize(
    ("name", "content"),
    [("faults.toml", '[[faults]]\nkind = "crash"\nat_s = 60\n'), ("faults.json", '[{"kind": "crash", "at_s": 60}]')],
)
def test_faults_lie_in_a_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_faults(tmp_path / name) == (Fault(kind="crash", at_s=60),)


@pytest.mark.parametrize("content", ["[[fault]]\n", '[[faults]]\nkind = "quake"\n', "faults = 3\n", "[["])
def test_a_file_that_is_wrong_is_refused(tmp_path, content):
    (tmp_path / "faults.toml").write_text(content)
    with pytest.raises(ValueError, match=r"."):
        read_faults(tmp_path / "faults.toml")
