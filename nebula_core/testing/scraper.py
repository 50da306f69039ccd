"""What every scraper must do, whatever engine it reads."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebula_core.errors import ScrapeError
from nebula_core.interfaces import Fetch, Scraper
from nebula_core.types import EndpointStats

RATIOS = ("kv_cache_usage", "prefix_cache_hit_rate")


def fetching(pages: Mapping[str, bytes]) -> Fetch:
    """A fetch that knows these pages; all others are missing."""

    async def fetch(path: str) -> bytes:
        if path not in pages:
            raise ScrapeError(f"{path} answers 404")
        return pages[path]

    return fetch


class ScraperContract(ABC):
    """Inherit it in a test class, make the scraper under test and hand it pages that a real engine served under load."""

    @abstractmethod
    def make_scraper(self) -> Scraper:
        """A fresh scraper with its default settings."""

    @abstractmethod
    def make_pages(self) -> Mapping[str, bytes]:
        """Path → page."""

    async def test_it_reads_what_a_real_engine_serves(self) -> None:
        """The queue at least, and nothing out of its range."""
        stats = await self.make_scraper().scrape(fetching(self.make_pages()))
        assert stats.running is not None
        assert stats.pending is not None
        _check_ranges(stats)

    async def test_the_same_pages_again_show_no_progress(self) -> None:
        """Rates are differences of two samples; without any, they are unknown or as before."""
        scraper, fetch = self.make_scraper(), fetching(self.make_pages())
        first, second = await scraper.scrape(fetch), await scraper.scrape(fetch)
        assert (first.pending, first.running, first.kv_cache_usage) == (second.pending, second.running, second.kv_cache_usage)
        _check_ranges(second)

    async def test_an_engine_that_serves_no_page_cannot_be_read(self) -> None:
        """The error of `fetch` or one of its own."""
        with pytest.raises(ScrapeError):
            await self.make_scraper().scrape(fetching({}))

    @pytest.mark.parametrize("page", [b"", b"<!doctype html><title>Sign in</title>", b'{"error": "no"}', b"\xff\xfe\x00", b"a b c d\n"])
    async def test_a_page_of_something_else_is_an_error_that_says_so(self, page: bytes) -> None:
        """Numbers must not be made out of a login page."""
        pages = dict.fromkeys(self.make_pages(), page)
        with pytest.raises(ScrapeError, match=r"\w+"):
            await self.make_scraper().scrape(fetching(pages))

    @given(data=st.data())
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_damaged_pages_are_read_or_refused_never_worse(self, data: st.DataObject) -> None:
        """A page cut short, or with bytes changed, gives stats in range or a `ScrapeError`."""
        pages = {path: data.draw(_damaged(page)) for path, page in self.make_pages().items()}
        with suppress(ScrapeError):
            _check_ranges(asyncio.run(self.make_scraper().scrape(fetching(pages))))


@st.composite
def _damaged(draw: st.DrawFn, page: bytes) -> bytes:
    start = draw(st.integers(0, len(page)))
    end = draw(st.integers(start, len(page)))
    return page[:start] + draw(st.binary(max_size=8)) + (page[end:] if draw(st.booleans()) else b"")


def _check_ranges(stats: EndpointStats) -> None:
    known = {name: value for name, value in msgspec.structs.asdict(stats).items() if value is not None}
    assert all(0 <= value < float("inf") for value in known.values()), known
    assert all(known.get(name, 0) <= 1 for name in RATIOS), known
