import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core import RouteEvent, RouteRequest
from nebula_core.router.prefix import hash_prefix

CHAT = "/v1/chat/completions"
TEXT = "The quick brown fox jumps over the lazy dog, and the dog lets it. " * 400
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def chat(messages, *, before=(), after=(), **style) -> bytes:
    return json.dumps({**dict(before), "messages": messages, **dict(after)}, **style).encode()


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def shared(one: bytes, other: bytes, path: str = CHAT) -> int:
    """Bytes that two prompts are found to share."""
    a, b = hash_prefix(path, one), hash_prefix(path, other)
    depth = 0
    while depth < min(len(a.hashes), len(b.hashes)) and a.hashes[depth] == b.hashes[depth]:
        depth += 1
    return sum(a.sizes[:depth])


def test_the_turns_of_a_conversation_share_all_but_the_newest():
    first = [turn("system", TEXT[:9000]), turn("user", "hello")]
    second = [*first, turn("assistant", "hi"), turn("user", TEXT)]
    assert 8000 < shared(chat(first), chat(second)) < 9100


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"model": "m", "stream": True}),
        ({"model": "m", "max_tokens": 5}, {"user": "a"}),
        ({"stream": True, "model": "m"}, {"stop": ["x"], "temperature": 0.1}),
    ],
)
def test_fields_around_the_prompt_do_not_matter(before, after):
    messages = [turn("system", TEXT[:9000]), turn("user", "hello")]
    plain = chat(messages, before={"model": "m"})
    assert shared(plain, chat(messages, before=before, after=after)) > 8000


def test_another_model_or_other_tools_share_nothing():
    messages = [turn("system", TEXT[:9000])]
    plain = chat(messages, after={"model": "m"})
    assert shared(plain, chat(messages, after={"model": "m-lora"})) == 0
    assert shared(plain, chat(messages, after={"model": "m", "tools": TOOLS})) == 0


def test_tools_behind_the_messages_stand_before_them_in_the_prompt():
    first = [turn("system", TEXT[:9000]), turn("user", "hello")]
    second = [*first, turn("assistant", "hi"), turn("user", TEXT)]
    after = {"model": "m", "tool_choice": "auto", "tools": TOOLS, "user": "u"}
    a, b = chat(first, after=after), chat(second, after=after)
    assert shared(a, b) > 8000 + len(json.dumps(TOOLS))


SYSTEM = [("/v1/messages", "messages", "system"), ("/v1/responses", "input", "instructions")]


def agent(prompt: str, system: str, text: str, question: str, *, order: str, tools=()) -> bytes:
    """A request whose system prompt is a field of its own, in an order of the fields: model, system, prompt, tools."""
    fields = {"m": ("model", "m"), "s": (system, text), "p": (prompt, [turn("user", question)]), "t": ("tools", list(tools))}
    return json.dumps(dict(fields[letter] for letter in order), separators=(",", ":")).encode()


@pytest.mark.parametrize("order", ["msp", "mps", "spm", "mspt", "mpst", "mpts", "mtps", "stpm"])
@pytest.mark.parametrize(("path", "prompt", "system"), SYSTEM)
def test_a_system_prompt_that_is_a_field_of_its_own_comes_first(path, prompt, system, order):
    body = agent(prompt, system, TEXT, "hello " * 100, order=order, tools=TOOLS)
    assert hash_prefix(path, body).total > len(TEXT)
    assert shared(body, agent(prompt, system, TEXT, "hello " * 99 + "you", order=order, tools=TOOLS), path) > len(TEXT) * 0.75
    assert shared(body, agent(prompt, system, "You" + TEXT, "hello " * 100, order=order, tools=TOOLS), path) == 0


def test_the_system_prompt_may_be_a_list_and_hold_quotes_and_brackets():
    parts = [{"type": "text", "text": 'Say "yes" or [{"no"}] \\ ' * 300, "cache_control": {"type": "ephemeral"}}]
    one, other = (agent("messages", "system", parts, "z" * 300 + question, order="mps") for question in ("x" * 500, "y" * 500))
    assert shared(one, other, "/v1/messages") > 5000


def test_a_field_of_that_name_inside_a_message_is_not_taken_for_it():
    def body(answer: str) -> bytes:
        call = {"role": "assistant", "content": [{"type": "tool_use", "name": "ask", "input": {"system": answer, "n": 1}}]}
        return json.dumps({"model": "m", "messages": [turn("user", TEXT[:9000]), call]}, separators=(",", ":")).encode()

    assert shared(body("one"), body("two"), "/v1/messages") > 8000


def test_tools_in_front_are_a_part_of_the_chain():
    messages, before = [turn("user", TEXT[:3000])], {"model": "m", "tools": TOOLS * 20}
    assert shared(chat(messages, before=before), chat([*messages, turn("user", "more")], before=before)) > 4000


def test_a_key_inside_a_message_is_not_taken_for_a_field():
    messages = [turn("user", 'say "tools": and "messages": and {"model":"x"}]' + TEXT[:3000])]
    assert shared(chat(messages), chat([*messages, turn("user", "more")])) > 2000


def test_prompts_and_token_ids_are_hashed_too():
    ids = list(range(5000))
    long, longer = json.dumps({"model": "m", "prompt": ids}).encode(), json.dumps({"model": "m", "prompt": [*ids, 1, 2]}).encode()
    assert shared(long, longer, "/v1/completions") > 20_000


def test_a_stream_is_told_from_a_whole_answer():
    messages = [turn("user", '"stream": true')]
    assert hash_prefix(CHAT, chat(messages, after={"stream": True}, separators=(",", ":"))).streamed
    assert hash_prefix(CHAT, chat(messages, before={"stream": True})).streamed
    assert not hash_prefix(CHAT, chat(messages)).streamed


def test_another_seed_gives_other_hashes():
    body = chat([turn("user", TEXT)])
    assert not set(hash_prefix(CHAT, body, 1).hashes) & set(hash_prefix(CHAT, body, 2).hashes)


def test_an_image_weighs_little():
    url = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAA" * 40_000
    body = chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": TEXT}]}])
    assert hash_prefix(CHAT, body).total < len(body) / 8


@given(st.binary(max_size=4000), st.sampled_from([CHAT, "/v1/completions", "/v1/embeddings", "", "/v1/messages", "/v1/responses"]))
def test_any_bytes_have_a_prefix(body, path):
    blocks = hash_prefix(path, body)
    assert len(blocks.hashes) == len(blocks.sizes)
    assert 0 <= sum(blocks.sizes) <= blocks.total <= len(body)


@given(st.binary(max_size=9000), st.binary(max_size=300), st.binary(max_size=300))
def test_equal_beginnings_have_equal_hashes(start, one, other):
    a, b = hash_prefix("", start + one), hash_prefix("", start + other)
    whole = len(hash_prefix("", start).hashes)
    assert a.hashes[:whole] == b.hashes[:whole]


@pytest.mark.parametrize(
    "body",
    [
        chat([turn("user", "x" * 30_000_000)]),
        chat([turn("user", "hi")] * 100_000),
        json.dumps({"model": "m", "prompt": list(range(3_000_000))}).encode(),
        b'"messages"' * 1_000_000,
        b'"tools"' * 1_000_000,
        b"}]" * 5_000_000,
    ],
    ids=["one giant message", "many messages", "token ids", "keys", "tools", "brackets"],
)
def test_odd_prompts_have_a_bounded_number_of_blocks(body):
    assert len(hash_prefix(CHAT, body).hashes) <= 90


def test_blocks_are_computed_once_and_taken_from_a_trace():
    request = RouteRequest("r", "m", CHAT, chat([turn("user", TEXT)]))
    blocks = request.blocks()
    request.body = b""
    assert request.blocks() is blocks
    assert RouteRequest("r", "m", "", b"", blocks).blocks() is blocks


def test_an_event_with_a_prefix_crosses_a_wire_unchanged():
    blocks = hash_prefix(CHAT, chat([turn("user", TEXT)]))
    event = RouteEvent(kind="charged", model_uid="m", replica_id="0", incarnation=1, at=1.0, prefix_blocks=blocks)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=RouteEvent) == event
