import logging
from pathlib import Path

import pytest
from nebula_scraper_sglang import ScraperSettings, nebula_register_scrapers

from nebula_core import Context, EndpointStats, ScrapeError
from nebula_core.testing.pages import recorded_page
from nebula_core.testing.scraper import ScraperContract, fetching

DATA = Path(__file__).with_name("data")


def page(name):
    return recorded_page(f"sglang-{name}.txt", DATA)


def build(*times):
    [provider] = nebula_register_scrapers()
    clock = iter(times or [0.0]).__next__
    return provider.build(Context(logger=logging.getLogger("test"), clock=clock), ScraperSettings())


async def scrape(content, scraper=None):
    content = content.encode() if isinstance(content, str) else content
    return await (scraper or build()).scrape(fetching({"/metrics": content}))


class TestSglangScraper(ScraperContract):
    def make_scraper(self):
        return build(0.0, 3.0)

    def make_pages(self):
        return {"/metrics": page("0.5.14-gen")}


GENERATED = {"pending": 9, "running": 17, "kv_cache_usage": 0.31, "prefix_cache_hit_rate": 0.27}
COUNTED = {"prompt_tokens_total": 1536 - 384, "cached_tokens_total": 384, "generated_tokens_total": 192}

EXPECTED = {
    "0.4.0.post2-docs": EndpointStats(pending=0, running=0, kv_cache_usage=0, prefix_cache_hit_rate=0, generated_tokens_total=8),
    "0.4.x-underload-docs": EndpointStats(
        pending=2826,
        running=162,
        kv_cache_usage=0.28,
        prefix_cache_hit_rate=0.007507552643049313,
        generated_tokens_total=7_557_572,
    ),
    "0.4.1-gen": EndpointStats(generated_tokens_total=0.21, **GENERATED),
    "0.4.6-gen": EndpointStats(**GENERATED, **COUNTED),
    "0.4.10-gen": EndpointStats(**GENERATED, **COUNTED),
    "0.5.2-gen": EndpointStats(**GENERATED, **COUNTED),
    "0.5.9-gen": EndpointStats(kv_capacity_tokens=388_842, **GENERATED, **COUNTED),
    "0.5.14-gen": EndpointStats(**GENERATED, **COUNTED),
}


@pytest.mark.parametrize("name", EXPECTED)
async def test_the_page_of_every_version_is_read_to_the_right_numbers(name):
    assert await scrape(page(name)) == EXPECTED[name]


async def test_0_3_5_has_other_names_and_its_hit_rate_in_per_cent():
    stats = await scrape("""\
# TYPE sglang:max_total_num_tokens gauge
sglang:max_total_num_tokens{name="m"} 452516.0
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{name="m"} 506780.0
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{name="m"} 424549.0
# TYPE sglang:num_requests_running gauge
sglang:num_requests_running{name="m"} 6.0
# TYPE sglang:num_requests_waiting gauge
sglang:num_requests_waiting{name="m"} 2.0
# TYPE sglang:token_usage gauge
sglang:token_usage{name="m"} 0.01
# TYPE sglang:cache_hit_rate gauge
sglang:cache_hit_rate{name="m"} 10.5
""")
    assert stats == EndpointStats(
        pending=2,
        running=6,
        kv_cache_usage=0.01,
        kv_capacity_tokens=452_516,
        prefix_cache_hit_rate=0.105,
        generated_tokens_total=424_549,
    )


async def test_a_hit_rate_below_one_per_cent_is_one_all_the_same():
    stats = await scrape("sglang:num_requests_running 6\nsglang:cache_hit_rate 0.5\n")
    assert stats.prefix_cache_hit_rate == 0.005


async def test_ranks_of_tensor_and_pipeline_parallelism_count_once():
    stats = await scrape(
        "".join(
            f'sglang:{name}{{model_name="m",pp_rank="{pp}",tp_rank="{tp}"}} {value}\n'
            for name, value in [("num_running_reqs", 5), ("num_queue_reqs", 2), ("token_usage", 0.4), ("max_total_num_tokens", 1000)]
            for pp in (0, 1)
            for tp in (0, 1, 2, 3)
        )
    )
    assert stats == EndpointStats(pending=2, running=5, kv_cache_usage=0.4, kv_capacity_tokens=1000)


async def test_ranks_of_data_parallelism_are_added_and_their_usage_is_averaged():
    stats = await scrape(
        "".join(
            f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}"}} {running}\n'
            f'sglang:token_usage{{dp_rank="{dp}",tp_rank="{tp}"}} {usage}\n'
            f'sglang:max_total_num_tokens{{dp_rank="{dp}",tp_rank="{tp}"}} 1000\n'
            for dp, tp, running, usage in [(0, 0, 2, 0.25), (0, 1, 2, 0.25), (1, 2, 7, 0.75), (1, 3, 7, 0.75)]
        )
    )
    assert stats == EndpointStats(running=9, kv_cache_usage=0.5, kv_capacity_tokens=2000)


async def test_a_queue_by_priority_counts_as_a_whole():
    stats = await scrape(
        "".join(
            f'sglang:num_queue_reqs{{priority="{priority}",tp_rank="0"}} {value}\n' for priority, value in [("", 7), ("0", 4), ("10", 3)]
        )
    )
    assert stats.pending == 7


@pytest.mark.parametrize(
    ("sources", "cached"),
    [
        ({"device": 300, "host": 60, "storage_hf3fs": 24}, 384),
        ({"device": 300, "host": 60, "storage_hf3fs": 24, "total": 384}, 384),
        ({"total": 384}, 384),
        ({"device": 300, "host": -1}, None),
    ],
)
async def test_cached_tokens_are_not_counted_twice(sources, cached):
    lines = [f'sglang:cached_tokens_total{{cache_source="{source}",model_name="m"}} {value}' for source, value in sources.items()]
    stats = await scrape("\n".join([*lines, 'sglang:prompt_tokens_total{model_name="m"} 1536', ""]))
    assert (stats.cached_tokens_total, stats.prompt_tokens_total) == (cached, cached and 1536 - cached)


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ('sglang:page_size{tp_rank="0"} 64.0', 64),
        ('sglang:cache_config_info{num_pages="6075",page_size="64",tp_rank="0"} 1.0', 64),
        ('sglang:cache_config_info{page_size="None"} 1.0', None),
        ("sglang:page_size 0.0", None),
    ],
)
async def test_the_block_is_a_page(line, size):
    assert (await scrape(f"sglang:num_running_reqs 1\n{line}\n")).kv_block_tokens == size


def counters(prompt, cached):
    return f"sglang:prompt_tokens_total {prompt}\nsglang:cached_tokens_total {cached}\nsglang:cache_hit_rate 0.9\n"


async def test_the_hit_rate_is_that_of_a_window_as_soon_as_there_is_one():
    scraper = build(0.0, 3.0, 6.0, 9.0)
    pages = [counters(1000, 500), counters(1400, 600), counters(40, 0), counters(80, 30)]  # restarted after the second
    assert [(await scrape(one, scraper)).prefix_cache_hit_rate for one in pages] == [0.9, 100 / 400, 0.9, 30 / 40]


@pytest.mark.parametrize(("value", "usage"), [("1.7", 1), ("-0.2", None), ("NaN", None), ("+Inf", None)])
async def test_a_usage_that_cannot_be_is_full_or_unknown(value, usage):
    stats = await scrape(page("0.5.9-gen").replace(b'tp_rank="0"} 0.31', f'tp_rank="0"}} {value}'.encode()))
    assert (stats.kv_cache_usage, stats.running) == (usage, 17)


async def test_more_cached_than_prompt_tokens_leave_no_count_of_computed_ones():
    stats = await scrape(counters(100, 500))
    assert (stats.prompt_tokens_total, stats.cached_tokens_total) == (None, 500)


async def test_another_engine_is_not_taken_for_sglang():
    with pytest.raises(ScrapeError, match="/metrics is not a metrics page of SGLang"):
        await scrape('vllm:num_requests_running{model_name="m"} 3\n')
