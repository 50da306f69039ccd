"""What is measured of every request that named a known model."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.data_path.measures import SECONDS, TOKEN_SECONDS, Measures, token_s
from nebula_core.metrics import Metrics
from nebula_core.testing.scripted_engine import EVENT, SSE, chunk

SEED_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30)

seconds = st.floats(0, 1000)
tokens = st.none() | st.integers(0, 9)
outcomes = st.fixed_dictionaries(
    {
        "model_uid": st.sampled_from(["a", "b"]),
        "status": st.sampled_from([200, 499, 502, 503]),
        "duration_s": seconds,
        "route_s": st.none() | seconds,
        "first_token_s": st.none() | seconds,
        "tokens": st.tuples(tokens, tokens, st.booleans()),
        "streamed": st.booleans(),
    }
)


def observed(gateway, name: str) -> int:
    series = gateway.series(name).get(("m",))
    return sum(series.buckets) if series else 0


@given(st.lists(outcomes, max_size=30))
def test_every_outcome_is_counted_once_wherever_it_belongs(given):
    metrics = Metrics()
    measures = Measures(metrics)
    for outcome in given:
        measures.record(**outcome)
    seen = {family.name: sum(sum(sample.buckets) or sample.value for sample in family.samples) for family in metrics.snapshot()}
    timed = [one for one in given if one["streamed"] and one["first_token_s"] is not None and (one["tokens"][1] or 0) > 1]
    assert seen["nebula_request_total"] == seen["nebula_request_duration_seconds"] == len(given)
    assert seen["nebula_route_latency_seconds"] == sum(outcome["route_s"] is not None for outcome in given)
    assert seen["nebula_time_to_first_token_seconds"] == sum(outcome["first_token_s"] is not None for outcome in given)
    assert seen["nebula_time_per_output_token_seconds"] == len(timed)
    assert seen["nebula_prompt_tokens_total"] == sum(outcome["tokens"][0] or 0 for outcome in given)
    assert seen["nebula_completion_tokens_total"] == sum(outcome["tokens"][1] or 0 for outcome in given)


def test_the_time_per_token_leaves_out_the_first():
    assert token_s(3.0, 1.0, 5) == pytest.approx(0.5)
    assert token_s(3.0, 1.0, 1) is None


def test_buckets_contain_the_bounds_that_objectives_are_stated_in():
    assert {*SEED_BOUNDS, 0.2, 2, 600} <= set(SECONDS)
    assert list(SECONDS) == sorted(SECONDS)
    assert list(TOKEN_SECONDS) == sorted(TOKEN_SECONDS)


async def test_a_stream_tells_its_time_per_token_and_another_answer_does_not(gateway, engine):
    running = await gateway((await engine(SSE + chunk(EVENT) * 3 + b"0\r\n\r\n")).url)
    await running.ask()
    assert observed(running, "nebula_time_per_output_token_seconds") == 1
    body = b'{"usage":{"prompt_tokens":7,"completion_tokens":5}}'
    running = await gateway((await engine(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))).url)
    await running.ask()
    assert observed(running, "nebula_time_per_output_token_seconds") == 0
    assert observed(running, "nebula_route_latency_seconds") == 1


async def test_a_stream_that_its_client_leaves_is_measured_too_but_not_as_a_whole_answer(gateway, engine):
    async def script(engine, reader, writer, seen):
        writer.write(SSE + chunk(EVENT) * 3)
        await engine.until_gone(reader)

    running = await gateway((await engine(script)).url)
    client = await running.connect()
    client.post()
    await client.head()
    await client.chunk()
    client.writer.close()
    await running.at_rest()
    assert observed(running, "nebula_request_duration_seconds") == 1
    assert observed(running, "nebula_time_per_output_token_seconds") == 1
    assert observed(running, "nebula_route_latency_seconds") == 0


async def test_routing_is_timed_from_the_attempt_that_answered(gateway, engine):
    async def refuses(engine, reader, writer, seen):
        await asyncio.sleep(0.3)
        raise ConnectionResetError

    running = await gateway((await engine(refuses)).url, (await engine()).url)
    answer = await running.ask()
    whole, routed = (running.series(f"nebula_{name}_seconds")[("m",)].value for name in ("request_duration", "route_latency"))
    assert answer.status == 200
    assert whole - routed > 0.25
