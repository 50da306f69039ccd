"""Looking at engines: probes and scrapes with a deadline, that never raise."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import httpx

from nebula_core.errors import ScrapeError
from nebula_core.interfaces import Fetch, Health, Probe, Scraper
from nebula_core.types import EndpointStats

MAX_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Target:
    """How to look at one engine."""

    name: str
    """For the log."""
    url: str
    api_key: str
    health_path: str
    probe: Probe
    scraper: Scraper | None


class Inspector:
    """Looks at one engine, and remembers what it has complained of."""

    def __init__(self, target: Target, http: httpx.AsyncClient, timeout_s: float, logger: logging.Logger) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._logger = logger
        self._fetch = make_fetch(http, target.url, target.api_key, timeout_s)
        self._complaint = ""

    async def probe(self) -> Health:
        """Whether it can serve; no answer in time counts as no."""
        target = self._target
        try:
            async with asyncio.timeout(self._timeout_s):
                return await target.probe.probe(target.url, target.health_path, target.api_key)
        except TimeoutError:
            return Health(False, f"no answer within {self._timeout_s:g} s")
        except Exception as error:  # a fault in one plugin must not end the others' probes
            self._logger.exception("%s: its probe failed", target.name)
            return Health(False, f"the probe failed: {error}")

    async def scrape(self) -> EndpointStats | None:
        """Its own account of its load; `None` where it has none to give now, which is logged when it changes."""
        if self._target.scraper is None:
            return None
        stats, complaint = None, ""
        try:
            async with asyncio.timeout(self._timeout_s):
                stats = await self._target.scraper.scrape(self._fetch)
        except TimeoutError:
            complaint = f"no answer within {self._timeout_s:g} s"
        except ScrapeError as error:
            complaint = str(error)
        except Exception as error:  # noqa: BLE001 - as above; `_complain` logs it, once
            complaint = f"{type(error).__name__}: {error}"
        self._complain(complaint)
        return stats

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            self._logger.warning("%s: its stats cannot be read: %s", self._target.name, complaint)
        elif self._complaint and not complaint:
            self._logger.info("%s: its stats can be read again", self._target.name)
        self._complaint = complaint


def make_fetch(http: httpx.AsyncClient, url: str, api_key: str, timeout_s: float) -> Fetch:
    """Reads pages of one engine, bounded in time and size."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def fetch(path: str) -> bytes:
        try:
            async with asyncio.timeout(timeout_s), http.stream("GET", url + path, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise ScrapeError(f"{url}{path} answers {response.status_code}")
                return await _read(response)
        except TimeoutError as error:
            raise ScrapeError(f"{url}{path} did not answer within {timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ScrapeError(f"{url}{path} cannot be read: {error or type(error).__name__}") from error

    return fetch


async def _read(response: httpx.Response) -> bytes:
    page = bytearray()
    async for piece in response.aiter_bytes():
        page += piece
        if len(page) > MAX_PAGE_BYTES:
            raise ScrapeError(f"{response.url} is larger than {MAX_PAGE_BYTES} bytes")
    return bytes(page)
