"""A request's body as a prompt: its bytes, their tokens and the hashes of their blocks."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

BYTES_PER_TOKEN = 4
"""What English text has with the usual tokenizers; every word of an answer has as many bytes, and is a token."""
WORDS = tuple(f"{a}{b}{c} " for a in "bdfgklmnprst" for b in "aeiou" for c in "dklmnrst")


class WrongField(ValueError):
    """A field of the body that is wrong: OpenAI's errors name it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class StreamOptions(msgspec.Struct):
    """How a stream ends."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """A chat message; what is not text counts as its JSON."""

    role: str = "user"
    content: Any = None
    tool_calls: Any = None


class Body(msgspec.Struct):
    """What the simulation looks at in a request; the rest is of no concern to it. What may be null means then what it means if left out."""

    model: str | None = None
    messages: list[Message] | None = None
    tools: Any = None
    prompt: str | list[str | int | list[int]] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    n: int | None = None


@dataclass(frozen=True)
class Prompt:
    """What an engine is to compute."""

    text: bytes
    lora: str = ""

    @property
    def tokens(self) -> int:
        """At least one: models begin with a token of their own."""
        return max(1, -(-len(self.text) // BYTES_PER_TOKEN))

    def blocks(self, block_tokens: int, answer: bytes = b"") -> tuple[int, ...]:
        """Chained hashes of the whole blocks that the prompt, and an answer behind it, fill. A LoRA has a chain of its own."""
        text, size = self.text + answer, block_tokens * BYTES_PER_TOKEN
        chained, hashes = xxh3_64_intdigest(self.lora.encode()), []
        for end in range(size, len(text) + 1, size):
            chained = xxh3_64_intdigest(text[end - size : end], chained)
            hashes.append(chained)
        return tuple(hashes)


def render(body: Body) -> bytes:
    """The prompt's bytes. A conversation is rendered so that its next turn begins with this turn's prompt and answer.

    Raises `WrongField` for several prompts.
    """
    if body.messages is None:
        prompt = "" if body.prompt is None else _only(body.prompt)
        return prompt.encode() if isinstance(prompt, str) else array("I", (token & 0xFFFFFFFF for token in prompt)).tobytes()
    parts = [b"<|tools|>\n", msgspec.json.encode(body.tools), b"\n"] if body.tools else []
    for message in body.messages:
        parts += [b"<|", message.role.encode(), b"|>\n", _content(message.content), b"\n"]
        if message.tool_calls:
            parts.append(msgspec.json.encode(message.tool_calls))
    return b"".join([*parts, b"<|assistant|>\n"])


def answer(prompt: Prompt, body: Body, seed: int, mean: int, room: int) -> tuple[list[str], str]:
    """The words of the answer, and why it ends: `stop` by itself, `length` because no more was asked for or has room.

    Raises `WrongField` if less than one word may be said.
    """
    random = Random(xxh3_64_intdigest(prompt.text, seed if body.seed is None else body.seed & 0xFFFFFFFF))
    limit = _limit(body)
    most = room if limit is None else min(limit, room)
    own = max(body.min_tokens, 1 + int(random.expovariate(1 / mean)))
    count = most if body.ignore_eos and limit is not None else min(own, most)
    return random.choices(WORDS, k=count), "length" if count == most else "stop"


def _limit(body: Body) -> int | None:
    field, limit = "max_completion_tokens", body.max_completion_tokens
    if limit is None:
        field, limit = "max_tokens", body.max_tokens
    if limit is not None and limit < 1:
        raise WrongField(field, f"{field} must be at least 1, got {limit}.")
    return limit


def _only(prompt: str | list[str | int | list[int]]) -> str | list[int]:
    """A text, or the ids of its tokens; either may be the only one in a list of prompts."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and not isinstance(prompt[0], int):
        return prompt[0]
    ids = [part for part in prompt if isinstance(part, int)]
    if not ids or len(ids) < len(prompt):
        raise WrongField("prompt", f"the simulated engine answers one prompt, a text or a list of token ids: got a list of {len(prompt)}")
    return ids


def _content(content: Any) -> bytes:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, list):
        return b"".join(
            part["text"].encode() if isinstance(part, dict) and isinstance(part.get("text"), str) else msgspec.json.encode(part)
            for part in content
        )
    return b"" if content is None else msgspec.json.encode(content)
