"""What the clients of a benchmark ask: prompts that share prefixes and differ, as those of a service with a few system prompts do."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

MODEL = "m"
PATH = "/v1/chat/completions"
SYSTEM_PROMPTS, QUESTIONS = 16, 64
WORDS_32_KIB = 3700
"""Words that bring a request's body to 32 KiB."""


def chat(system: int, question: int, *, words: int = 0, stream: bool = False) -> bytes:
    """The body of one chat completion; `words` make its system prompt longer."""
    messages = [{"role": "system", "content": _guide(system, words)}, {"role": "user", "content": f"Question {question}: how do you do?"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 20, "stream": stream}
    return json.dumps(body, separators=(",", ":")).encode()


@cache
def _guide(system: int, words: int) -> str:
    return f"You are assistant {system} and answer in one sentence. " + " ".join(f"rule{number:03}" for number in range(words))


def bodies(*, words: int = 0, stream: bool = False) -> list[bytes]:
    """Every question under every system prompt, in an order that is mixed and always the same."""
    pairs = [(system, question) for system in range(SYSTEM_PROMPTS) for question in range(QUESTIONS)]
    random.Random(0).shuffle(pairs)
    return [chat(system, question, words=words, stream=stream) for system, question in pairs]


def write(file: Path, lines: list[bytes]) -> Path:
    """A body per line, for `load.lua`."""
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def request(port: int, body: bytes) -> bytes:
    """A whole HTTP request with this body, to a gateway on this machine."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
