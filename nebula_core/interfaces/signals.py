"""`Probe` and `Scraper`: whether an engine can serve, and what it says of its load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nebula_core.types import EndpointStats

Fetch = Callable[[str], Awaitable[bytes]]
"""Reads a page of an engine by its path, bounded in time and size; raises `ScrapeError`."""


@dataclass(frozen=True)
class Health:
    """What a probe saw. `reason` says why it is not well."""

    ok: bool
    reason: str = ""


class Probe(ABC):
    """Tells whether an engine can serve."""

    @abstractmethod
    async def probe(self, url: str, path: str, api_key: str) -> Health:
        """Look at the engine at base URL `url`, once; never raises for what an engine may do. The caller sets the deadline."""


class Scraper(ABC):
    """Reads an engine's own account of its load. One object per replica, so that it may remember the last sample."""

    @abstractmethod
    async def scrape(self, fetch: Fetch) -> EndpointStats:
        """Fetch what it needs and read it; what a page does not carry is `None`. Raises `ScrapeError`."""
