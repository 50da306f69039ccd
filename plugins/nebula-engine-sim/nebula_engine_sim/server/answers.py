"""Answers in OpenAI's form: whole, or as events of a stream that are ready made but for the word in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"


class Form:
    """How one request is answered. `chat` tells the two routes apart."""

    def __init__(self, request_id: str, model: str, created: int, *, chat: bool) -> None:
        self._chat = chat
        self._head = {"id": request_id, "created": created, "model": model}
        self._before, self._after = self._event(self._choice("\0", None)).split(b"\\u0000")

    def whole(self, words: Sequence[str], reason: str, usage: dict[str, Any]) -> bytes:
        """The answer in one piece."""
        text = "".join(words)
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        kind = "chat.completion" if self._chat else "text_completion"
        return msgspec.json.encode({**self._head, "object": kind, "choices": [choice], "usage": usage})

    def role(self) -> bytes:
        """The first event of a chat; of a completion there is none."""
        return self._event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]) if self._chat else b""

    def word(self, word: str) -> bytes:
        """The event of one token; words have no characters that JSON would escape."""
        return self._before + word.encode() + self._after

    def last(self, reason: str, usage: dict[str, Any] | None) -> bytes:
        """What ends the stream: the reason, the usage if it is wanted, and the mark of its end."""
        total = b"" if usage is None else self._event([], usage=usage)
        return self._event(self._choice("", reason)) + total + DONE

    def _choice(self, word: str, reason: str | None) -> list[dict[str, Any]]:
        content: dict[str, Any] = {"text": word}
        if self._chat:
            content = {"delta": {"content": word} if reason is None else {}}
        return [{"index": 0, **content, "logprobs": None, "finish_reason": reason}]

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return b"data: " + msgspec.json.encode({**self._head, "object": kind, "choices": choices, **more}) + b"\n\n"


def usage(prompt_tokens: int, output_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """Token counts, as vLLM tells them with `--enable-prompt-tokens-details`."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def error(message: str, kind: str, status: int, field: str | None = None) -> bytes:
    """OpenAI's envelope, with vLLM's numeric `code`; `field` is what is wrong in the request's body."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": field, "code": status}})
