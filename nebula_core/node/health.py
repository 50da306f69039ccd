"""Looking at engines: probes and scrapes with a deadline, that never raise."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import httpx

from nebula_core.errors import ScrapeError
from nebula_core.interfaces import Health, Probe, Scraper
from nebula_core.node.fetch import Failure, FetchError, make_fetch
from nebula_core.types import EndpointStats


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


@dataclass(frozen=True)
class Scrape:
    """What became of reading an engine's stats; neither, where it has none to read."""

    stats: EndpointStats | None = None
    failure: Failure | None = None


class Inspector:
    """Looks at one engine, and remembers what it has complained of. Deadlines are times of the event loop."""

    def __init__(self, target: Target, http: httpx.AsyncClient, timeout_s: float, logger: logging.Logger) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._logger = logger
        self._fetch = make_fetch(http, target.url, target.api_key, timeout_s)
        self._complaint = ""

    async def probe(self, deadline: float) -> Health:
        """Whether it can serve; no answer in time counts as no."""
        target = self._target
        try:
            async with asyncio.timeout_at(deadline):
                return await target.probe.probe(target.url, target.health_path, target.api_key)
        except TimeoutError:
            return Health(False, self._late())
        except Exception as error:  # a fault in one plugin must not end the others' probes
            self._logger.exception("%s: its probe failed", target.name)
            return Health(False, f"the probe failed: {error}")

    async def scrape(self, deadline: float) -> Scrape:
        """Its own account of its load; where it has none to give now, why, which is logged when it changes."""
        if self._target.scraper is None:
            return Scrape()
        try:
            async with asyncio.timeout_at(deadline):
                stats = await self._target.scraper.scrape(self._fetch)
        except TimeoutError:
            return self._failed(Failure.LATE, self._late())
        except FetchError as error:
            return self._failed(error.failure, str(error))
        except ScrapeError as error:
            return self._failed(Failure.UNREADABLE, str(error))
        except Exception as error:  # noqa: BLE001 - as above; `_complain` logs it, once
            return self._failed(Failure.PLUGIN, f"{type(error).__name__}: {error}")
        self._complain("")
        return Scrape(stats)

    def _late(self) -> str:
        return f"no answer within {self._timeout_s:g} s"

    def _failed(self, failure: Failure, complaint: str) -> Scrape:
        self._complain(complaint)
        return Scrape(failure=failure)

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            self._logger.warning("%s: its stats cannot be read: %s", self._target.name, complaint)
        elif self._complaint and not complaint:
            self._logger.info("%s: its stats can be read again", self._target.name)
        self._complaint = complaint
