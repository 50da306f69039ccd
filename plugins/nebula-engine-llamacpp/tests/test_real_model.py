"""The bundled model on llama.cpp itself, started as a node starts it."""

import asyncio
import json
import re
import signal
import socket
from contextlib import asynccontextmanager

import pytest
from nebula_engine_llamacpp.engine import LlamaCppEngine

from nebula_core import ModelRequest
from nebula_core.testing.engine import free_address, started, until_ready
from nebula_core.testing.polling import eventually

HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0, "ignore_eos": True}


@asynccontextmanager
async def engine_of(tmp_path, address=None, source=None, **engine_args):
    address = address or free_address()
    engine = LlamaCppEngine()
    request = ModelRequest(model_uid="smol/SmolLM2", engine="llamacpp", source=source, engine_args={"context_tokens": 1024, **engine_args})
    [spec] = engine.specs(request)
    async with started(engine.launch(spec, address, ()), address, tmp_path / "log") as running:
        yield running


async def events(response):
    lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_it_answers_as_openai_does_until_sigterm(tmp_path):
    async with engine_of(tmp_path) as engine:
        await until_ready(engine)
        await chat_completes(engine)
        await chat_streams_with_usage_at_the_end(engine)
        await a_prompt_said_again_is_cached(engine)
        await logprobs_schemas_and_embeddings_work(engine)
        await a_key_is_asked_for(engine)
        await its_load_can_be_read(engine)
        assert await engine.end(signal.SIGTERM) == 0
        assert "stopping on SIGTERM" in engine.log.read_text()


async def chat_completes(engine):
    answer = (await engine.http.post("/v1/chat/completions", json=HELLO)).json()
    assert answer["model"] == "smol/SmolLM2"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] == 8


async def chat_streams_with_usage_at_the_end(engine):
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    async with engine.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = await events(response)
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] == 8


async def a_prompt_said_again_is_cached(engine):
    body = {"messages": [{"role": "user", "content": "A long story about a cat. " * 20}], "max_tokens": 1}
    usages = [(await engine.http.post("/v1/chat/completions", json=body)).json()["usage"] for _ in range(2)]
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] > usages[1]["prompt_tokens"] / 2


async def logprobs_schemas_and_embeddings_work(engine):
    answer = (await engine.http.post("/v1/chat/completions", json={**HELLO, "logprobs": True, "top_logprobs": 2})).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    schema = {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["hour"]}
    form = {"type": "json_schema", "json_schema": {"name": "time", "schema": schema}}
    asked = {**HELLO, "response_format": form, "max_tokens": 40, "ignore_eos": False}
    answer = (await engine.http.post("/v1/chat/completions", json=asked)).json()
    assert re.match(r'\s*{\s*"hour"\s*:\s*-?\d', answer["choices"][0]["message"]["content"])  # the grammar allows any white space
    answer = (await engine.http.post("/v1/embeddings", json={"input": ["one", "two"]})).json()
    assert [len(item["embedding"]) for item in answer["data"]] == [576, 576]


async def a_key_is_asked_for(engine):
    refused = await engine.http.post("/v1/chat/completions", json=HELLO, headers={"Authorization": "Bearer other"})
    assert refused.status_code == 401


async def its_load_can_be_read(engine):
    assert "llamacpp:requests_deferred 0" in (await engine.http.get("/metrics")).text
    assert len((await engine.http.get("/slots")).json()) == 4


async def test_a_client_that_goes_away_frees_its_slot(tmp_path):
    async with engine_of(tmp_path) as engine:
        await until_ready(engine)
        async with engine.http.stream(
            "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 900, "ignore_eos": True, "stream": True}
        ) as response:
            await anext(response.aiter_bytes())
        await eventually(lambda: nothing_runs(engine), timeout_s=10)
        metrics = (await engine.http.get("/metrics")).text
        generated = next(line for line in metrics.splitlines() if line.startswith("llamacpp:tokens_predicted_total"))
        assert float(generated.split()[1]) < 900


async def nothing_runs(engine):
    return "llamacpp:requests_processing 0" in (await engine.http.get("/metrics")).text


async def test_a_burst_leaves_its_health_page_answering_and_sigterm_ends_it_at_once(tmp_path):
    body = {"prompt": "a", "max_tokens": 900, "ignore_eos": True, "stream": True}
    async with engine_of(tmp_path) as engine:
        await until_ready(engine)
        clients = [asyncio.create_task(engine.http.post("/v1/completions", json=body)) for _ in range(60)]
        await eventually(lambda: many_wait(engine))
        assert (await engine.http.get("/health", timeout=10)).status_code == 200
        assert await asyncio.wait_for(engine.end(signal.SIGTERM), 5) == 0
        await asyncio.gather(*clients, return_exceptions=True)


async def many_wait(engine):
    page = (await engine.http.get("/metrics", timeout=10)).text
    return any(line.startswith("llamacpp:requests_deferred") and float(line.split()[1]) > 20 for line in page.splitlines())


async def ends_with(engine, code):
    assert await asyncio.wait_for(engine.process.wait(), 30) == code
    return engine.log.read_text()


@pytest.mark.parametrize("content", [b"hello", b"GGUF" + b"\x03\x00\x00\x00" + b"\xff" * 64])
async def test_a_file_that_is_no_model_ends_it_with_the_reason(tmp_path, content):
    (tmp_path / "broken.gguf").write_bytes(content)
    async with engine_of(tmp_path, source=str(tmp_path / "broken.gguf")) as engine:
        log = await ends_with(engine, 1)
    assert "gguf_init" in log
    assert f"llama.cpp cannot serve {tmp_path / 'broken.gguf'}" in log  # not always as its last line: llama.cpp logs in a thread
    assert "Traceback" not in log


async def test_a_port_in_use_ends_it_with_the_reason(tmp_path):
    address = free_address()
    with socket.create_server((address.host, address.port)):
        async with engine_of(tmp_path, address) as engine:
            log = await ends_with(engine, 1)
    assert f"couldn't bind HTTP server socket, hostname: {address.host}, port: {address.port}" in log
    assert "Traceback" not in log


async def test_any_number_of_slots_will_do(tmp_path):
    async with engine_of(tmp_path, parallel=3, context_tokens=256) as engine:
        await until_ready(engine)
        await chat_completes(engine)
