"""What every probe must do, and small servers to try it on that answer well, badly or not at all."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress

import httpx
import pytest

from nebula_core.interfaces import Health, Probe

Answer = Callable[[bytes], bytes | None]
"""Makes the bytes of an answer from a request's head; `None`: never answers; `b""`: hangs up."""


def response(status: int, body: bytes = b"{}", reason: str = "-") -> bytes:
    """An HTTP answer that ends the connection."""
    return b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, reason.encode(), len(body), body)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """The base URL of a server on loopback that answers every request with `answer`."""
    closed = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            data = answer(await reader.readuntil(b"\r\n\r\n"))
            if data is None:
                await closed.wait()
            writer.write(data or b"")

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        closed.set()
        server.close()
        await server.wait_closed()


def refusing_url() -> str:
    """A URL on loopback where nothing listens."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


class ProbeContract(ABC):
    """Inherit it in a test class and make the probe under test."""

    @abstractmethod
    def make_probe(self, http: httpx.AsyncClient) -> Probe:
        """A probe with its default settings that uses this client."""

    async def look(self, answer: Answer, path: str = "/health", api_key: str = "") -> Health:
        """What the probe says of a server that answers so."""
        async with serving(answer) as url:
            return await self.look_at(url, path, api_key)

    async def look_at(self, url: str, path: str = "/health", api_key: str = "") -> Health:
        """What the probe says of the server at `url`."""
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(20):
            return await self.make_probe(http).probe(url, path, api_key)

    async def test_an_engine_that_answers_is_well(self) -> None:
        """And nothing more is said of it."""
        assert await self.look(lambda head: response(200)) == Health(ok=True)

    async def test_an_engine_that_fails_is_not_well_and_the_reason_has_its_status(self) -> None:
        """As while it loads its model."""
        health = await self.look(lambda head: response(503))
        assert not health.ok
        assert "503" in health.reason

    @pytest.mark.parametrize(
        "data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 hi\r\n\r\n"]
    )
    async def test_an_engine_that_does_not_speak_http_to_the_end_is_not_well(self, data: bytes) -> None:
        """It hangs up, stops in the middle, or is something else."""
        health = await self.look(lambda head: data)
        assert not health.ok
        assert health.reason

    async def test_where_nothing_listens_nothing_is_well(self) -> None:
        """The reason is in words."""
        health = await self.look_at(refusing_url())
        assert not health.ok
        assert "refused" in health.reason

    async def test_an_address_that_is_none_is_not_well(self) -> None:
        """Nor does it raise."""
        assert not (await self.look_at("http://[nowhere")).ok

    async def test_the_caller_may_stop_waiting(self) -> None:
        """The caller sets the deadline, so cancelling must work."""
        async with serving(lambda head: None) as url, httpx.AsyncClient(trust_env=False, timeout=None) as http:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(self.make_probe(http).probe(url, "/health", ""), 0.1)
