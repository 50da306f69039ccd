import logging
from pathlib import Path

import pytest
from nebula_scraper_vllm import ScraperSettings, nebula_register_scrapers

from nebula_core import Context, EndpointStats, ScrapeError
from nebula_core.testing.pages import recorded_page
from nebula_core.testing.scraper import ScraperContract, fetching

DATA = Path(__file__).with_name("data")


def page(name):
    return recorded_page(f"vllm-{name}.txt", DATA)


def build(*times):
    [provider] = nebula_register_scrapers()
    clock = iter(times or [0.0]).__next__
    return provider.build(Context(logger=logging.getLogger("test"), clock=clock), ScraperSettings())


async def scrape(content, scraper=None):
    return await (scraper or build()).scrape(fetching({"/metrics": content}))


class TestVllmScraper(ScraperContract):
    def make_scraper(self):
        return build(0.0, 3.0)

    def make_pages(self):
        return {"/metrics": page("0.32.0-cpu-load")}


class TestVllmScraperWithDataParallelism(ScraperContract):
    def make_scraper(self):
        return build(0.0, 3.0)

    def make_pages(self):
        return {"/metrics": page("0.32.0-cpu-dp2-api2-load")}


GENERATED = {"running": 7, "kv_cache_usage": 0.63, "generated_tokens_total": 64}
REAL = {"kv_capacity_tokens": 524_288, "kv_block_tokens": 128}

EXPECTED = {
    "0.5.x-kubeai": EndpointStats(
        pending=2 + 3,
        running=3,
        kv_cache_usage=0.0026235242675994863,
        kv_capacity_tokens=4574 * 16,
        kv_block_tokens=16,
        prompt_tokens_total=90,  # its prefix cache is off
        cached_tokens_total=0,
        generated_tokens_total=2546,
    ),
    "0.8.5-v0engine-gen": EndpointStats(pending=12, kv_capacity_tokens=446_192, kv_block_tokens=16, **GENERATED),
    "0.8.5-gen": EndpointStats(pending=12, kv_capacity_tokens=446_192, kv_block_tokens=16, cached_tokens_total=2048 * 16, **GENERATED),
    "0.9.2-gen": EndpointStats(pending=12, prompt_tokens_total=5120 - 2048, cached_tokens_total=2048, **GENERATED),
    "0.10.2-gen": EndpointStats(pending=12, prompt_tokens_total=5120 - 2048, cached_tokens_total=2048, **GENERATED),
    "0.11.2-gen": EndpointStats(pending=12, prompt_tokens_total=5120 - 2048, cached_tokens_total=2048, **GENERATED),
    "0.13.0-gen": EndpointStats(pending=12, prompt_tokens_total=5120 - 2048, cached_tokens_total=2048, **GENERATED),
    "0.18.1-gen": EndpointStats(pending=12, prompt_tokens_total=1536, cached_tokens_total=512, **GENERATED),
    "0.22.1-gen": EndpointStats(pending=12 + 2, prompt_tokens_total=1536, cached_tokens_total=512, **GENERATED),
    "0.26.0-gen": EndpointStats(pending=12 + 2, prompt_tokens_total=1536, cached_tokens_total=512, **GENERATED),
    "0.32.0-cpu-idle": EndpointStats(
        pending=0, running=0, kv_cache_usage=0, prompt_tokens_total=0, cached_tokens_total=0, generated_tokens_total=0, **REAL
    ),
    "0.32.0-cpu-load": EndpointStats(
        pending=20,
        running=4,
        kv_cache_usage=0.0073260073260073,
        prompt_tokens_total=2146,
        cached_tokens_total=1024,
        generated_tokens_total=1461,
        **REAL,
    ),
    "0.32.0-cpu-after": EndpointStats(
        pending=0,
        running=0,
        kv_cache_usage=0,
        prompt_tokens_total=4718,
        cached_tokens_total=11_520,
        generated_tokens_total=8800,
        **REAL,
    ),
    # Its gauges appear with the first request. Each of its two engines has room for 524,288 tokens, and shows 8192 blocks: both's.
    "0.32.0-cpu-dp2-api2-idle": EndpointStats(
        kv_capacity_tokens=2 * 524_288, kv_block_tokens=128, prompt_tokens_total=0, cached_tokens_total=0, generated_tokens_total=0
    ),
    "0.32.0-cpu-dp2-api2-load": EndpointStats(
        pending=6 + 8,
        running=2 + 3,
        kv_cache_usage=(0.0017094017094017033 + 0.005372405372405353) / 2,
        kv_capacity_tokens=2 * 524_288,
        kv_block_tokens=128,
        prompt_tokens_total=1732 + 1747,
        cached_tokens_total=2688 + 1536,
        generated_tokens_total=1602 + 1597,
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
async def test_the_page_of_every_version_is_read_to_the_right_numbers(name):
    assert await scrape(page(name)) == EXPECTED[name]


@pytest.mark.parametrize(
    ("before", "after", "rate"),
    [
        ("0.32.0-cpu-idle", "0.32.0-cpu-load", 1024 / 3170),
        ("0.32.0-cpu-load", "0.32.0-cpu-after", (11_520 - 1024) / (16_238 - 3170)),
        ("0.32.0-cpu-dp2-api2-idle", "0.32.0-cpu-dp2-api2-load", (2688 + 1536) / (4420 + 3283)),
        ("0.32.0-cpu-load", "0.32.0-cpu-load", None),
        ("0.32.0-cpu-after", "0.32.0-cpu-idle", None),  # restarted
    ],
)
async def test_the_hit_rate_is_that_of_the_time_between_two_samples(before, after, rate):
    scraper = build(0.0, 3.0)
    await scrape(page(before), scraper)
    assert (await scrape(page(after), scraper)).prefix_cache_hit_rate == rate


async def test_blocks_have_a_hit_rate_too():
    scraper, later = build(0.0, 3.0), page("0.8.5-gen").replace(b" 5120.0", b" 6120.0").replace(b"} 2048.0", b"} 2298.0")
    await scrape(page("0.8.5-gen"), scraper)
    assert (await scrape(later, scraper)).prefix_cache_hit_rate == 250 / 1000


@pytest.mark.parametrize(("gauge", "rate"), [("-1.0", None), ("0.0", 0), ("0.42", 0.42)])
async def test_before_0_7_the_hit_rate_is_a_gauge_and_minus_one_says_unknown(gauge, rate):
    old = page("0.8.5-v0engine-gen") + f'vllm:gpu_prefix_cache_hit_rate{{model_name="m"}} {gauge}\n'.encode()
    assert (await scrape(old)).prefix_cache_hit_rate == rate


async def test_tokens_in_0_9_0_have_the_name_that_blocks_had():
    old = page("0.8.5-gen").replace(b"queried blocks", b"queried tokens").replace(b"cached blocks", b"cached tokens")
    stats = await scrape(old)
    assert (stats.prompt_tokens_total, stats.cached_tokens_total) == (5120 - 2048, 2048)


async def test_without_lookups_all_prompt_tokens_were_computed():
    stats = await scrape(b"vllm:prompt_tokens_total 90\nvllm:prefix_cache_queries_total 0\nvllm:prefix_cache_hits_total 0\n")
    assert (stats.prompt_tokens_total, stats.cached_tokens_total) == (90, 0)


async def test_adapters_carry_a_time_and_do_not_matter():
    content = page("0.32.0-cpu-after")
    without = b"\n".join(line for line in content.splitlines() if b"lora_requests_info" not in line)
    assert await scrape(content) == await scrape(without)


async def test_without_its_size_in_tokens_the_cache_has_the_blocks_of_all_engines():
    content = page("0.32.0-cpu-dp2-api2-load").replace(b'kv_cache_size_tokens="524288"', b'kv_cache_size_tokens="None"')
    assert (await scrape(content)).kv_capacity_tokens == 8192 * 128


@pytest.mark.parametrize("label", ["None", "-1", "0", "1.5", "9" * 5000, ""])
async def test_a_size_that_is_none_is_unknown(label):
    content = page("0.8.5-gen").replace(b'num_gpu_blocks="27887"', f'num_gpu_blocks="{label}"'.encode())
    stats = await scrape(content)
    assert (stats.kv_capacity_tokens, stats.kv_block_tokens) == (None, 16)


@pytest.mark.parametrize(("value", "usage"), [("1.7", 1), ("-0.2", None), ("NaN", None), ("+Inf", None)])
async def test_a_usage_that_cannot_be_is_full_or_unknown(value, usage):
    content = page("0.32.0-cpu-load").replace(b"0.0073260073260073", value.encode())
    stats = await scrape(content)
    assert (stats.kv_cache_usage, stats.running) == (usage, 4)


async def test_hits_beyond_all_queries_make_no_rate():
    scraper = build(0.0, 3.0)
    for hits in (0, 500):
        stats = await scrape(f"vllm:prefix_cache_queries_total 100\nvllm:prefix_cache_hits_total {hits}\n".encode(), scraper)
    assert (stats.prefix_cache_hit_rate, stats.prompt_tokens_total) == (None, None)


async def test_another_engine_is_not_taken_for_vllm():
    with pytest.raises(ScrapeError, match="/metrics is not a metrics page of vLLM"):
        await scrape(b'sglang:num_running_reqs{model_name="m"} 3\n')
