"""Reading an engine's pages, bounded in time and in memory, whatever it answers."""

from __future__ import annotations

import asyncio
from enum import StrEnum

import httpx

from nebula_core.errors import ScrapeError
from nebula_core.interfaces import Fetch

MAX_PAGE_BYTES = 4 * 1024 * 1024


class Failure(StrEnum):
    """Why the stats of an engine are not known; a label of the metric that counts them."""

    UNREACHABLE = "unreachable"
    """No connection, or one that ended before its answer did."""
    STATUS = "status"
    """An answer that is not 200."""
    LATE = "late"
    """No whole answer in time."""
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    """A whole page that is not what the engine promises."""
    PLUGIN = "plugin"
    """A fault in the scraper itself."""


class FetchError(ScrapeError):
    """A page that could not be had."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def make_fetch(http: httpx.AsyncClient, url: str, api_key: str, timeout_s: float) -> Fetch:
    """Reads pages of one engine, bounded in time and size."""
    headers = {"Accept-Encoding": "identity"}  # a small page could unpack to one that fills the memory
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"

    async def fetch(path: str) -> bytes:
        try:
            async with asyncio.timeout(timeout_s), http.stream("GET", url + path, headers=headers, follow_redirects=False) as response:
                _check(response, url + path)
                return await _read(response)
        except TimeoutError as error:
            raise FetchError(Failure.LATE, f"{url}{path} did not answer within {timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FetchError(Failure.UNREACHABLE, f"{url}{path} cannot be read: {str(error) or type(error).__name__}") from error

    return fetch


def _check(response: httpx.Response, page: str) -> None:
    if response.status_code != httpx.codes.OK:
        raise FetchError(Failure.STATUS, f"{page} answers {response.status_code}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise FetchError(Failure.UNREADABLE, f"{page} is packed as {encoding[:40]!r}, which nobody asked for")


async def _read(response: httpx.Response) -> bytes:
    """As it comes, never unpacked."""
    page = bytearray()
    async for piece in response.aiter_raw():
        page += piece
        if len(page) > MAX_PAGE_BYTES:
            raise FetchError(Failure.TOO_LARGE, f"{response.url} is larger than {MAX_PAGE_BYTES} bytes")
    return bytes(page)
