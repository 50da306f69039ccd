import asyncio
import logging
from pathlib import Path

import pytest
from nebula_scraper_llamacpp import ScraperSettings, nebula_register_scrapers

from nebula_core import Context, EndpointStats, ModelRequest, ScrapeError
from nebula_core.plugins import load
from nebula_core.testing.engine import free_address, started, until_ready
from nebula_core.testing.polling import eventually
from nebula_core.testing.scraper import ScraperContract, fetching

DATA = Path(__file__).with_name("data")
IDLE = (DATA / "llamacpp-b11434-idle.txt").read_bytes()
LOAD = (DATA / "llamacpp-b11434-load.txt").read_bytes()
SLOTS = (DATA / "llamacpp-b11434-slots-load.json").read_bytes()
PROPS = (DATA / "llamacpp-b11434-props.json").read_bytes()


def build(clock=lambda: 0.0, **settings):
    [provider] = nebula_register_scrapers()
    return provider.build(Context(logger=logging.getLogger("test"), clock=clock), ScraperSettings(**settings))


class TestLlamaCppScraper(ScraperContract):
    def make_scraper(self):
        return build()

    def make_pages(self):
        return {"/metrics": LOAD, "/slots": SLOTS}


async def test_a_loaded_engine_is_read_from_two_pages():
    stats = await build().scrape(fetching({"/metrics": LOAD, "/slots": SLOTS}))
    assert stats == EndpointStats(
        pending=3,
        running=1,
        kv_cache_usage=(202 + 202) / (2048 + 2048),
        kv_capacity_tokens=4096,
        prompt_tokens_total=418,
        cached_tokens_total=390,
        generated_tokens_total=480,
    )


async def test_what_idle_slots_keep_for_reuse_is_not_in_use():
    slots = b'[{"n_ctx":100,"is_processing":false,"n_prompt_tokens":90},{"n_ctx":100,"is_processing":true,"n_prompt_tokens":30}]'
    stats = await build().scrape(fetching({"/metrics": IDLE, "/slots": slots}))
    assert stats.kv_cache_usage == 0.15


async def test_a_fresh_engine_uses_nothing():
    stats = await build().scrape(fetching({"/metrics": IDLE, "/slots": b'[{"n_ctx":100,"is_processing":false}]'}))
    assert (stats.kv_cache_usage, stats.kv_capacity_tokens, stats.prefix_cache_hit_rate) == (0.0, 100, None)


async def test_what_a_computing_slot_does_not_say_is_unknown():
    stats = await build().scrape(fetching({"/metrics": IDLE, "/slots": b'[{"n_ctx":100,"is_processing":true}]'}))
    assert (stats.kv_cache_usage, stats.kv_capacity_tokens) == (None, 100)


async def test_without_the_slots_page_the_capacity_is_that_of_the_props():
    stats = await build().scrape(fetching({"/metrics": LOAD, "/props": PROPS}))
    assert (stats.pending, stats.kv_cache_usage, stats.kv_capacity_tokens) == (3, None, 4096)


async def test_without_either_the_rest_is_still_read():
    stats = await build().scrape(fetching({"/metrics": LOAD}))
    assert (stats.pending, stats.kv_cache_usage, stats.kv_capacity_tokens) == (3, None, None)


async def test_a_metric_that_is_not_there_is_unknown():
    stats = await build().scrape(fetching({"/metrics": b"llamacpp:requests_processing 1\n"}))
    assert stats == EndpointStats(running=1)


@pytest.mark.parametrize("value", [b"", b" ", b" one", b"{a=1} 2 3"])
async def test_a_line_without_a_number_is_an_error_with_the_line(value):
    with pytest.raises(ScrapeError, match="requests_deferred"):
        await build().scrape(fetching({"/metrics": IDLE + b"llamacpp:requests_deferred" + value}))


@pytest.mark.parametrize("value", [b" NaN", b" +Inf", b" -1"])
async def test_a_number_that_is_no_count_is_unknown(value):
    stats = await build().scrape(fetching({"/metrics": LOAD.replace(b"requests_deferred 3", b"requests_deferred" + value)}))
    assert (stats.pending, stats.running) == (None, 1)


@pytest.mark.parametrize("path", ["/metrics", "/slots"])
async def test_the_error_names_the_page(path):
    pages = {"/metrics": IDLE, "/slots": SLOTS, path: b'{"error":{"code":500,"message":"busy"}}'}
    with pytest.raises(ScrapeError, match=path):
        await build().scrape(fetching(pages))


async def test_the_hit_rate_is_that_of_the_time_between_two_samples():
    now = iter([0.0, 3.0])
    scraper = build(lambda: next(now))
    assert (await scraper.scrape(fetching({"/metrics": IDLE}))).prefix_cache_hit_rate is None
    assert (await scraper.scrape(fetching({"/metrics": LOAD}))).prefix_cache_hit_rate == 390 / (390 + 418)


async def test_a_real_engine_is_read_while_it_generates(tmp_path):
    plugins = load()
    if "llamacpp" not in plugins.names("engine"):
        pytest.skip("needs nebula-engine-llamacpp")
    engine = plugins.build("engine", "llamacpp", "this test", {}, lambda name: Context(logger=logging.getLogger(name)))
    [spec] = engine.specs(ModelRequest(model_uid="smollm2", engine="llamacpp", engine_args={"parallel": 2, "context_tokens": 1024}))
    address = free_address()
    async with started(engine.launch(spec, address, ()), address, tmp_path / "log") as running, asyncio.TaskGroup() as group:
        await until_ready(running)

        async def fetch(path):
            return (await running.http.get(path)).content

        scraper, body = build(), {"prompt": "one two three " * 20, "max_tokens": 200, "ignore_eos": True}
        before = await scraper.scrape(fetch)
        assert (before.running, before.kv_cache_usage, before.kv_capacity_tokens) == (0, 0.0, 2048)
        request = group.create_task(running.http.post("/v1/completions", json=body))
        busy = await eventually(lambda: _busy(scraper, fetch))
        assert 0 < busy.kv_cache_usage <= 0.5
        await request
        await running.http.post("/v1/completions", json={**body, "max_tokens": 1})
        after = await scraper.scrape(fetch)
        assert 0 < after.prefix_cache_hit_rate < 1
        assert after.generated_tokens_total > 0


async def _busy(scraper, fetch):
    stats = await scraper.scrape(fetch)
    return stats if stats.running == 1 and stats.kv_cache_usage else None
