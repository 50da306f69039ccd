"""A real engine with a real model, as a newcomer meets it."""

from __future__ import annotations

import os
import signal
import time

import httpx
import openai
import pytest

from nebula_core.testing.campaigns import rounds
from nebula_core.testing.waiting import eventually

SMOLLM2 = '[[models]]\nmodel_uid = "smollm2"\nengine = "llamacpp"\naliases = ["tiny"]\ncontext_tokens = 2048\n'
HI = [{"role": "user", "content": "Say hello in one short sentence."}]


def engine_pids(nebula) -> list[int]:
    return sorted(pid for pid, line in nebula.processes().items() if "nebula_engine_llamacpp" in line and "shim" not in line)


@pytest.fixture
def nebula(make_nebula):
    return make_nebula(SMOLLM2).start()


def test_the_openai_client_notices_nothing(nebula):
    client = openai.OpenAI(base_url=f"{nebula.url}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == ["smollm2", "tiny"]

    whole = client.chat.completions.create(model="smollm2", messages=HI, max_tokens=24, temperature=0)
    assert whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0

    stream = client.chat.completions.create(
        model="smollm2", messages=HI, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    events = list(stream)
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == whole.choices[0].message.content
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens

    embedding = client.embeddings.create(model="smollm2", input=["a cat", "a dog"])
    assert [len(each.embedding) for each in embedding.data] == [576, 576]

    text = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=8, temperature=0)
    assert text.choices[0].text
    with pytest.raises(openai.NotFoundError, match="smollm2"):
        client.chat.completions.create(model="unknown", messages=HI)


async def test_the_async_client_streams_many_at_once(nebula):
    async with openai.AsyncOpenAI(base_url=f"{nebula.url}/v1", api_key="any") as client:
        streams = [await client.chat.completions.create(model="tiny", messages=HI, max_tokens=8, stream=True) for _ in range(4)]
        for stream in streams:
            assert [event async for event in stream][-1].choices[0].finish_reason


def test_a_killed_engine_comes_back(nebula):
    [engine] = engine_pids(nebula)
    killed_at = time.monotonic()
    os.kill(engine, signal.SIGKILL)
    eventually(lambda: engine_pids(nebula) not in ([], [engine]) and nebula.answers("smollm2"), 60)
    print(f"the engine served again {time.monotonic() - killed_at:.1f} s after it was killed; ten seconds is the aim on a quiet machine")


def test_sigterm_stops_everything_that_was_started(nebula):
    assert nebula.stop() == 0
    assert nebula.processes() == {}
    with pytest.raises(httpx.ConnectError):
        nebula.chat("smollm2")


def test_after_sigkill_the_next_up_adopts_the_engine_and_takes_over_the_port(nebula):
    engines = engine_pids(nebula)
    nebula.kill()
    assert nebula.answers("smollm2"), "workers go on serving while the control process is gone"
    nebula.start()
    assert nebula.answers("smollm2")
    assert engine_pids(nebula) == engines
    workers = [line for line in nebula.processes().values() if "gateway.worker" in line]
    assert len(workers) == 1


@pytest.mark.timeout(300)
def test_round_after_round_of_sigkill_leaves_nothing_over(nebula):
    engines = engine_pids(nebula)
    for _ in range(rounds(5, 20)):
        nebula.kill()
        nebula.start()
        assert nebula.answers("smollm2")
        assert engine_pids(nebula) == engines
    assert nebula.stop() == 0
    assert nebula.processes() == {}
    assert list((nebula.data_dir / "run").iterdir()) == []


def test_a_hung_engine_is_ended_too_when_nobody_will_wait(nebula):
    [engine] = engine_pids(nebula)
    os.kill(engine, signal.SIGSTOP)
    nebula.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in nebula.log.read_text(), 20)
    time.sleep(1.0)  # so that it is the engine's end that is waited for
    nebula.process.send_signal(signal.SIGTERM)
    nebula.process.wait(30)
    eventually(lambda: not nebula.processes(), 20)
