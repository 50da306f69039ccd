import pytest
from nebula_engine_sim import FcfsEngine, Happening, Job


def job(name, *blocks, tokens=None, output=5):
    return Job(name, blocks, tokens or len(blocks) * 100, output)


def engine(capacity=100):
    return FcfsEngine(block_size=100, capacity_blocks=capacity, tokens_per_s=1000)


def test_a_prompt_takes_its_tokens_divided_by_the_speed():
    one = engine()
    one.submit(job("a", 1, 2, tokens=250), 7.0)
    assert one.next_at() == pytest.approx(7.25)
    assert one.advance(7.2) == []
    assert [happening.kind for happening in one.advance(7.25)] == ["first_token", "finished"]
    assert one.next_at() is None


def test_the_second_waits_for_the_first_and_computes_what_is_not_shared():
    one = engine()
    one.submit(job("a", 1, 2), 0.0)
    one.submit(job("b", 1, 3), 0.0)
    first = [happening for happening in one.advance(9.0) if happening.kind == "first_token"]
    assert first == [Happening("first_token", "a", 0.2, 0), Happening("first_token", "b", pytest.approx(0.3), 100, pytest.approx(0.2))]
    assert (one.prompt_tokens_total, one.cached_tokens_total, one.generated_tokens_total) == (400, 100, 10)


def test_the_end_of_the_longest_unused_prompt_is_forgotten_first():
    one = engine(capacity=3)
    one.submit(job("a", 1, 2), 0.0)
    one.submit(job("b", 3, 4), 0.0)
    assert one.cached_tokens((1, 2), 200) == 100
    assert one.cached_tokens((3, 4), 200) == 200


def test_those_behind_an_aborted_request_move_up():
    one = engine()
    for name, block in (("a", 1), ("b", 2), ("c", 3)):
        one.submit(job(name, block, tokens=1000), 0.0)
    one.abort("b", 0.5)
    one.abort("a", 0.5)
    assert one.backlog_s(0.5) == pytest.approx(1.0)
    assert [(happening.request_id, happening.at) for happening in one.advance(9.0)] == [("c", pytest.approx(1.5))] * 2


def test_its_stats_are_what_a_scraper_would_read():
    one = engine(capacity=10)
    one.stats(0.0)
    for name in "abc":
        one.submit(job(name, 1, 2), 0.0)
    busy = one.stats(0.1)
    assert (busy.pending, busy.running, busy.kv_cache_usage, busy.kv_capacity_tokens, busy.kv_block_tokens) == (2, 1, 0.2, 1000, 100)
    one.advance(1.0)
    idle = one.stats(1.0)
    assert (idle.pending, idle.prompt_tokens_total, idle.cached_tokens_total) == (0, 200, 400)
    assert idle.prefix_cache_hit_rate == pytest.approx(2 / 3)


def test_a_request_is_refused_whose_id_is_in_use():
    one = engine()
    one.submit(job("a", 1), 0.0)
    with pytest.raises(ValueError, match="a is in this engine already"):
        one.submit(job("a", 1), 0.0)
