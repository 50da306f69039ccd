"""The official `openai` package notices nothing, and nothing that clients and engines do leaks a charge."""

from __future__ import annotations

import asyncio
import itertools
import json
import random

import openai
import pytest

from nebula_core.testing.scripted_engine import DONE, SSE, chunk

pytestmark = pytest.mark.asyncio


def event(text):
    delta = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}}],
    }
    return b"data: %b\n\n" % json.dumps(delta).encode()


def completion(text):
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    value = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def talk(engine, reader, writer, seen):
    """An engine that answers chats as they ask."""
    if not json.loads(seen.body).get("stream"):
        writer.write(completion("hello"))
        return
    writer.write(SSE)
    for text in ("hel", "lo"):
        writer.write(chunk(event(text)))
        await writer.drain()
    writer.write(chunk(DONE) + b"0\r\n\r\n")


MESSAGES = [{"role": "user", "content": "hi"}]


async def test_the_async_openai_client_notices_nothing(gateway, engine):
    running = await gateway((await engine(talk)).url)
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="x") as client:
        answer = await client.chat.completions.create(model="m", messages=MESSAGES)
        assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("hello", 3)
        assert answer._request_id.startswith("req-")
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert "".join([part.choices[0].delta.content async for part in stream]) == "hello"
        assert [model.id async for model in client.models.list()] == ["alias", "m"]


async def test_tenants_with_the_same_prompt_get_an_answer_each(gateway, engine):
    """They may share a replica and what it has cached, and their requests are alike to the last byte."""
    numbers = itertools.count()

    async def number(engine, reader, writer, seen):
        writer.write(completion(f"answer {next(numbers)}"))

    running = await gateway((await engine(number)).url)

    async def ask(key):
        async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key=key) as client:
            return (await client.chat.completions.create(model="m", messages=MESSAGES)).choices[0].message.content

    answers = await asyncio.gather(*(ask(f"tenant-{tenant}") for tenant in range(8)))
    assert sorted(answers) == [f"answer {tenant}" for tenant in range(8)]


async def test_the_sync_openai_client_notices_nothing(gateway, engine):
    running = await gateway((await engine(talk)).url)

    def chat():
        with openai.OpenAI(base_url=running.url + "/v1", api_key="x") as client:
            whole = client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content
            stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            return whole, "".join(part.choices[0].delta.content for part in stream), client.models.retrieve("m").owned_by

    assert await asyncio.to_thread(chat) == ("hello", "hello", "nebula")


async def test_the_openai_client_raises_its_own_errors(gateway, engine):
    async def breaks(engine, reader, writer, seen):
        writer.write(SSE + chunk(event("hel")))
        await writer.drain()
        raise ConnectionResetError

    running = await gateway((await engine(breaks)).url, max_body_bytes=100_000)
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="none", messages=MESSAGES)
        with pytest.raises(openai.APIStatusError) as too_large:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a" * 5_000_000}])
        assert too_large.value.status_code == 413
        stream = aiter(await client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        assert (await anext(stream)).choices[0].delta.content == "hel"
        with pytest.raises(openai.APIError, match="failed in the middle"):
            await anext(stream)


@pytest.mark.parametrize("seed", range(3))
async def test_no_path_leaks_a_charge(gateway, engine, dead_url, seed, until):
    """Many requests at once; engines and clients break off wherever chance has it."""
    chance = random.Random(seed)
    stream = SSE + b"".join(chunk(b": ping\n\n") + chunk(event("a")) for _ in range(3)) + b"0\r\n\r\n"

    async def script(engine, reader, writer, seen):
        answer = chance.choice([stream, stream, completion("hello")])
        until = chance.choice([len(answer), len(answer), chance.randrange(len(answer))])
        for start in range(0, until, 97):
            writer.write(answer[start : min(start + 97, until)])
            await asyncio.sleep(chance.choice([0, 0, 0.002]))
        if until < len(answer):
            if chance.random() < 0.5:
                writer.transport.abort()
            raise ConnectionResetError

    async def one(running):
        client = await running.connect()
        try:
            for _ in range(chance.randrange(1, 4)):
                client.post(chance.choice([b'{"model":"m"}', b'{"model":"m","stream":true}', b"{"]))
            async with asyncio.timeout(chance.choice([0.001, 0.005, 0.02, 1])):
                while True:
                    await client.answer()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            chance.choice([client.writer.close, client.writer.transport.abort])()

    first, second = await engine(script), await engine(script)
    running = await gateway(dead_url, first.url, second.url, idle_timeout_s=0.5, first_byte_timeout_s=0.5)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(150):
            tasks.create_task(one(running))
    await running.at_rest()
    await until(lambda: not running.server.services.connections)
