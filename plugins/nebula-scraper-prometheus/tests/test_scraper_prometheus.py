import logging
import re
import tomllib
from pathlib import Path

import pytest
from nebula_scraper_prometheus import ScraperSettings, nebula_register_scrapers

from nebula_core import Context, EndpointStats, ScrapeError, SettingsError
from nebula_core.plugins import load
from nebula_core.testing.scraper import ScraperContract, fetching

HERE = Path(__file__).parent
TRITON = (HERE / "data/triton-trtllm-readme.txt").read_bytes()
EXAMPLES = [
    tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```$", (HERE.parent / "README.md").read_text(), re.DOTALL | re.MULTILINE)
]
TRITON_MAPPING = EXAMPLES[0]["scraper_prometheus"]
WINDOW = EXAMPLES[1]["scraper_prometheus"]


def build(mapping, *times):
    [provider] = nebula_register_scrapers()
    clock = iter(times or [0.0]).__next__
    return provider.build(Context(logger=logging.getLogger("test"), clock=clock), ScraperSettings(**mapping))


async def scrape(mapping, content):
    content = content.encode() if isinstance(content, str) else content
    return await build(mapping).scrape(fetching({"/metrics": content}))


class TestPrometheusScraper(ScraperContract):
    def make_scraper(self):
        return build(TRITON_MAPPING)

    def make_pages(self):
        return {"/metrics": TRITON}


class TestPrometheusScraperWithRatios(ScraperContract):
    def make_scraper(self):
        part, whole = ({"metric": "nv_trt_llm_kv_cache_block_metrics", "labels": {"kv_cache_block_type": kind}} for kind in ("used", "max"))
        return build(
            {
                **TRITON_MAPPING,
                "kv_cache_usage": {"numerator": part, "denominator": whole},
                "prefix_cache_hit_rate": {"numerator": part, "denominator": whole},
            },
            0.0,
            3.0,
        )

    def make_pages(self):
        return {"/metrics": TRITON}


async def test_the_mapping_in_the_readme_reads_triton_with_tensorrt_llm():
    assert await scrape(TRITON_MAPPING, TRITON) == EndpointStats(
        pending=1, running=1, kv_cache_usage=0.4875, kv_capacity_tokens=6239 * 64, kv_block_tokens=64
    )


async def test_the_page_may_have_another_path():
    scraper = build({"path": "/prometheus/metrics", "pending": {"metric": "waiting"}})
    assert await scraper.scrape(fetching({"/prometheus/metrics": b"waiting 3\n"})) == EndpointStats(pending=3)


PAGE = 'depth{queue="a"} 1\ndepth{queue="b"} 5\nload{gpu="0"} 20\nload{gpu="1"} 60\n'


@pytest.mark.parametrize(("aggregate", "value"), [(None, 6), ("sum", 6), ("mean", 3), ("max", 5)])
async def test_samples_become_one_number(aggregate, value):
    assert (await scrape({"pending": {"metric": "depth", "aggregate": aggregate}}, PAGE)).pending == value


async def test_shares_are_averaged_and_scaled():
    assert (await scrape({"kv_cache_usage": {"metric": "load", "scale": 0.01}}, PAGE)).kv_cache_usage == 0.4
    assert (await scrape({"kv_cache_usage": {"metric": "load", "scale": 0.01, "aggregate": "max"}}, PAGE)).kv_cache_usage == 0.6


async def test_labels_choose_samples():
    assert (await scrape({"pending": {"metric": "depth", "labels": {"queue": "b"}}}, PAGE)).pending == 5
    assert (await scrape({"pending": {"metric": "depth", "labels": {"queue": "c"}}}, PAGE)).pending is None


@pytest.mark.parametrize(
    ("used", "room", "usage"), [(30, 40, 0.75), (50, 40, 1), (0, 40, 0), (3, 0, None), (-1, 40, None), ("NaN", 40, None)]
)
async def test_a_usage_may_be_a_part_of_a_whole(used, room, usage):
    mapping = {"kv_cache_usage": {"numerator": {"metric": "used"}, "denominator": {"metric": "room"}}}
    assert (await scrape(mapping, f"used {used}\nroom {room}\n")).kv_cache_usage == usage


async def test_a_hit_rate_from_counters_is_that_of_the_window():
    scraper = build(WINDOW, 0.0, 3.0, 6.0, 9.0, 12.0)
    counters = [(500, 1000), (600, 1400), (10, 20), (10, 20), (30, 45)]  # restarted after the second
    pages = [f"cache_hit_tokens_total {hits}\ncache_query_tokens_total {queries}\n".encode() for hits, queries in counters]
    rates = [(await scraper.scrape(fetching({"/metrics": page}))).prefix_cache_hit_rate for page in pages]
    assert rates == [None, 100 / 400, None, None, 20 / 25]


async def test_a_hit_rate_may_be_a_gauge():
    assert (await scrape({"prefix_cache_hit_rate": {"metric": "hits", "scale": 0.01}}, "hits 48.0\n")).prefix_cache_hit_rate == 0.48


async def test_more_hits_than_lookups_make_no_rate():
    scraper = build(WINDOW, 0.0, 3.0)
    for hits in (0, 500):
        page = f"cache_hit_tokens_total {hits}\ncache_query_tokens_total 100\n".encode()
        stats = await scraper.scrape(fetching({"/metrics": page}))
    assert stats.prefix_cache_hit_rate is None


@pytest.mark.parametrize("value", ["-1", "NaN", "+Inf", "1e300"])
async def test_a_number_that_cannot_be_is_unknown(value):
    stats = await scrape({"pending": {"metric": "depth", "scale": 1e15}, "running": {"metric": "busy"}}, f"depth {value}\nbusy 2\n")
    assert (stats.pending, stats.running) == (None, 2)


async def test_a_page_with_none_of_the_metrics_is_an_error():
    with pytest.raises(ScrapeError, match=r"/metrics is not a metrics page of the engine that \[scraper_prometheus\] describes"):
        await scrape(TRITON_MAPPING, PAGE)


def test_a_mapping_of_nothing_is_refused_where_it_is_used():
    with pytest.raises(SettingsError, match=r"\[scraper_prometheus\] maps no signal"):
        build({})


METRIC = {"metric": "m"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"pendng": METRIC}, r'\[scraper_prometheus\] has no key "pendng" \(its keys: .*pending'),
        ({"pending": {"metrc": "m"}}, r'pending: .*no key "metrc" \(its keys: metric, labels, aggregate, scale\)'),
        ({"pending": {}}, r'lacks the key "pending.metric"'),
        ({"pending": "m"}, r"pending: "),
        ({"pending": {"metric": "queue size"}}, r"pending.metric: .*pattern.*queue size"),
        ({"pending": {**METRIC, "aggregate": "min"}}, r"pending.aggregate: .*'sum', 'mean' or 'max', got 'min'"),
        ({"pending": {**METRIC, "scale": 0}}, r"pending.scale: .*greater than 0"),
        ({"pending": {**METRIC, "labels": {"a": 1}}}, r"pending.labels.a: .*string"),
        ({"pending": {"numerator": METRIC, "denominator": METRIC}}, r'pending: .*no key "denominator"'),
        ({"kv_cache_usage": {}}, r"kv_cache_usage: .*either `metric`, or `numerator` and `denominator`"),
        ({"kv_cache_usage": {"numerator": METRIC}}, r"kv_cache_usage: .*either"),
        ({"kv_cache_usage": {**METRIC, "numerator": METRIC, "denominator": METRIC}}, r"kv_cache_usage: .*either"),
        ({"kv_cache_usage": {"numerator": METRIC, "denominator": METRIC, "scale": 2}}, r"kv_cache_usage: .*each has its own"),
        ({"path": "metrics"}, r"path: .*pattern"),
        ({"window_s": 0}, r"window_s: .*greater than 0"),
    ],
)
def test_a_wrong_mapping_is_refused_with_the_key_that_is_wrong(table, message):
    with pytest.raises(SettingsError, match=message):
        load().check_tables({"scraper_prometheus": table})
