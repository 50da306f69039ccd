"""The simulated engine over real HTTP, on a port of its own, in this process."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
from nebula_engine_sim.arguments import SimArgs
from nebula_engine_sim.faults import Timeline
from nebula_engine_sim.server.replica import Replica

from nebula_core import MetricsReader
from nebula_core.testing.polling import eventually
from nebula_core.testing.ports import free_ports

KEY = "sk-of-this-test"
LONG = "A long story about a cat. " * 20


@asynccontextmanager
async def replica(**arguments):
    """A client of a replica whose clock runs a hundred times too fast."""
    [port] = free_ports(1)
    arguments = SimArgs(**{"time_scale": 100.0, "loras": ("sql",), **arguments})
    async with (
        Replica("127.0.0.1", port, "sim/one", KEY, arguments, Timeline(), lambda fault: None),
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=20
        ) as client,
    ):
        yield client


def chat(*contents, **fields):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)], **fields}


async def ask(client, body, path="/v1/chat/completions"):
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


async def sample(client, name):
    page = MetricsReader((name,), "the simulation").read((await client.get("/metrics")).content, "/metrics")
    return page.sum(name)


async def test_a_conversation_finds_its_prompts_and_its_answers_in_the_cache():
    async with replica() as client:
        first = await ask(client, chat(LONG, max_tokens=100, ignore_eos=True))
        said = first["choices"][0]["message"]["content"]
        second = await ask(client, chat(LONG, said, "Go on.", max_tokens=1))
    computed = first["usage"]["prompt_tokens"] + 100 - 1
    assert cached(first) == 0
    assert cached(second) in (computed // 16 * 16, computed // 16 * 16 - 16)


async def test_the_same_seed_and_request_give_the_same_answer():
    async with replica() as one, replica() as other, replica(seed=1) as third:
        answers = [(await ask(client, chat("hi")))["choices"] for client in (one, other, third)]
    assert answers[0] == answers[1] != answers[2]


async def test_a_lora_has_a_cache_of_its_own_and_a_name():
    async with replica() as client:
        for model, hit in (("sim/one", False), ("sql", False), ("sql", True)):
            assert bool(cached(await ask(client, chat(LONG, model=model, max_tokens=1)))) == hit
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["sim/one", "sql"]
        assert 'max_lora="1"' in (await client.get("/metrics")).text


async def test_the_official_client_reads_its_streams():
    async with replica() as client, openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key=KEY) as api:
        stream = await api.chat.completions.create(
            model="sim/one", messages=chat("hi")["messages"], max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        whole = await api.chat.completions.create(model="sim/one", messages=chat("hi")["messages"], max_tokens=5)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage.model_copy(update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details})
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize("prompt", ["Once upon a time", [1, 2, 3, 4], ["Once upon a time"], [[1, 2, 3, 4]]])
async def test_completions_take_a_text_or_tokens_alone_or_in_a_list(prompt):
    async with replica() as client:
        answer = await ask(client, {"prompt": prompt, "max_tokens": 3}, "/v1/completions")
    assert answer["usage"]["prompt_tokens"] == 4
    assert len(answer["choices"][0]["text"].split()) == answer["usage"]["completion_tokens"]


async def test_a_field_that_is_null_means_what_it_means_if_left_out():
    nothing = dict.fromkeys(
        ("model", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "seed", "tools", "temperature", "stop")
    )
    async with replica() as client:
        for path, body in (("/v1/chat/completions", chat("hi")), ("/v1/completions", {"prompt": "hi"})):
            assert (await ask(client, {**body, **nothing}, path))["choices"] == (await ask(client, body, path))["choices"]
        body = chat("hi", max_tokens=1, stream=True, stream_options={"include_usage": None})
        assert '"usage"' not in (await client.post("/v1/chat/completions", json=body)).text


async def test_max_completion_tokens_goes_before_max_tokens():
    async with replica() as client:
        answer = await ask(client, chat("hi", max_tokens=7, max_completion_tokens=3, ignore_eos=True))
    assert answer["usage"]["completion_tokens"] == 3


ONE_PROMPT = "the simulated engine answers one prompt, a text or a list of token ids: got a list of"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0."),
        ({"max_completion_tokens": -1}, "max_completion_tokens must be at least 1, got -1."),
        ({"n": 2}, "the simulated engine gives one answer: n has to be 1, got 2"),
        ({"prompt": None}, "the request has no prompt"),
        ({"prompt": ["one", "two"]}, f"{ONE_PROMPT} 2"),
        ({"prompt": [[1], [2], [3]]}, f"{ONE_PROMPT} 3"),
        ({"prompt": ["one", 2]}, f"{ONE_PROMPT} 2"),
        ({"prompt": []}, f"{ONE_PROMPT} 0"),
    ],
)
async def test_a_wrong_field_is_named_as_openai_does(wrong, message):
    async with replica() as client:
        response = await client.post("/v1/completions", json={"prompt": "hi", **wrong})
    assert response.status_code == 400
    [field] = wrong
    assert response.json() == {"error": {"message": message, "type": "BadRequestError", "param": field, "code": 400}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b"{"),
        (400, b"[]"),
        (400, b"{}"),
        (400, b'{"messages": [], "n": 2}'),
        (400, json.dumps({"messages": [{"role": "user", "content": "x" * 1000}]}).encode()),
        (404, b'{"messages": [], "model": "other"}'),
    ],
)
async def test_what_is_wrong_is_refused_as_openai_does(status, body):
    async with replica(max_model_tokens=100) as client:
        response = await client.post("/v1/chat/completions", content=body)
    assert response.status_code == status
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer other"}, {"Authorization": ""}])
async def test_a_key_is_asked_for(headers):
    async with replica() as client:
        assert (await client.post("/v1/chat/completions", json=chat("hi"), headers=headers)).status_code == 401
        assert (await client.get("/health", headers=headers)).status_code == 200


async def test_odd_contents_are_prompts_too():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, picture]}, {"role": "assistant", "content": None}]
    async with replica() as client:
        answer = await ask(client, {"messages": messages, "tools": [{"type": "function"}], "max_tokens": 1})
    assert answer["usage"]["prompt_tokens"] > 10


async def test_a_client_that_leaves_frees_the_engine():
    async with replica(time_scale=1.0) as client:
        body = chat("hi", max_tokens=10_000, ignore_eos=True, stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_bytes())
            assert await sample(client, "vllm:num_requests_running") == 1

        async def idle():
            return await sample(client, "vllm:num_requests_running") == 0

        await eventually(idle)
        assert 0 < await sample(client, "vllm:generation_tokens_total") < 10_000


async def test_requests_wait_for_a_place_and_the_page_says_so():
    async with replica(time_scale=1.0, max_sequences=1) as client:
        asked = [asyncio.create_task(ask(client, chat(f"{number}", max_tokens=20, ignore_eos=True))) for number in range(3)]

        async def two_wait():
            return await sample(client, "vllm:num_requests_waiting") == 2

        await eventually(two_wait)
        await asyncio.gather(*asked)
        assert await sample(client, "vllm:request_queue_time_seconds_count") == 3
        assert await sample(client, "vllm:request_queue_time_seconds_sum") > 0.5


async def test_the_plain_model_answers_at_once():
    async with replica(kind="fcfs") as client:
        async with client.stream("POST", "/v1/chat/completions", json=chat("hi", max_tokens=7, ignore_eos=True, stream=True)) as response:
            events = [line async for line in response.aiter_lines() if '"content"' in line]
        assert len(events) == 7 + 1
        assert await sample(client, "vllm:generation_tokens_total") == 7


async def test_its_page_has_the_names_and_kinds_of_a_real_one():
    real = Path(__file__).with_name("data") / "vllm-0.32.0-kinds.txt"
    async with replica() as client:
        await ask(client, chat("hi"))
        page = (await client.get("/metrics")).text
    kinds = {line for line in page.splitlines() if line.startswith("# TYPE vllm:")}
    assert kinds <= set(real.read_text().splitlines())
    assert len(kinds) > 40


async def test_requests_on_one_connection_are_answered_in_their_order():
    async with replica() as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/")] == [b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found"]


async def test_what_is_not_http_is_refused():
    async with replica() as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
