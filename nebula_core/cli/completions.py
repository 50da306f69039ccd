"""A small client of the public port: streams a chat answer piece by piece."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from nebula_core.errors import NebulaError

Message = Mapping[str, str]
TIMEOUT = httpx.Timeout(10.0, read=None)
"""Connecting is quick or fails; the first token may take as long as the gateway lets it."""


class ChatError(NebulaError):
    """The public port could not be reached, or refused the request."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer. `thought` marks what a reasoning model thinks before it answers."""

    text: str
    thought: bool = False


class ChatClient:
    """Asks one model at one address. Close it, or use it as a context manager."""

    def __init__(self, url: str, api_key: str | None, options: Mapping[str, Any]) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._options = {key: value for key, value in options.items() if value is not None}
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=False, headers=headers)

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def answer(self, messages: Sequence[Message]) -> Generator[Piece, None, None]:
        """The answer to `messages` as it comes; closing the iterator cancels it at the engine. Raises `ChatError`."""
        body = {**self._options, "messages": list(messages), "stream": True}
        with self._translated(), self._http.stream("POST", f"{self._url}/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                raise ChatError(_refusal(response.status_code, response.read()))
            yield from pieces(response.iter_lines())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ChatError(f"nothing answers at {self._url}: `nebula up` starts a Nebula, --url names another address") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ChatError(f"the connection to {self._url} failed: {str(error) or type(error).__name__}") from error


def pieces(lines: Iterable[str]) -> Iterator[Piece]:
    """The text in a stream of server-sent events, to its `[DONE]`. Raises `ChatError` for an error event."""
    for data in events(lines):
        if data == "[DONE]":
            return
        yield from _pieces_of(_json(data))
    raise ChatError("the answer broke off before its end")


def events(lines: Iterable[str]) -> Iterator[str]:
    """The data of each server-sent event; comments and other fields are left out."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _pieces_of(event: Any) -> Iterator[Piece]:
    if not isinstance(event, dict):
        return
    if event.get("error"):
        raise ChatError(_message(event))
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            yield Piece(thought, thought=True)
        if delta.get("content"):
            yield Piece(delta["content"])


def _refusal(status: int, body: bytes) -> str:
    return f"{_message(_json(body))} (HTTP {status})"


def _message(envelope: Any) -> str:
    """What OpenAI's error envelope says, or the start of whatever came instead."""
    error = envelope.get("error", envelope) if isinstance(envelope, dict) else envelope
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:2000]


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace") if isinstance(text, bytes) else text
