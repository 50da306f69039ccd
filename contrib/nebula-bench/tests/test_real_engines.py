"""The script of chats is what it says it is, and a fleet of simulated engines is measured."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nebula_bench.real_engines import Report, Shape, measure, script, text

SMALL = Shape(conversations=2, turns=2, system=20, said=4, output_tokens=2)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
def test_every_turn_takes_up_each_chat_where_it_was_left(conversations, turns, seed):
    so_far = {}
    for number, messages in script(Shape(conversations, turns), seed):
        before = so_far.get(number, [])
        assert messages[: len(before)] == before
        assert messages[-1]["role"] == "user"
        so_far[number] = messages
    assert [len(messages) for messages in so_far.values()] == [2 * turns] * conversations


def test_a_seed_gives_the_same_script_every_time():
    assert list(script(SMALL, 7)) == list(script(SMALL, 7)) != list(script(SMALL, 8))


def test_each_strategy_gets_a_row():
    rows = measure("sim", ["prefix", "least_pending"], 1, SMALL, rounds=1, users=2)
    assert [(row.strategy, row.requests) for row in rows] == [("prefix", 4), ("least_pending", 4)]
    for row in rows:
        assert 0 < row.cached_tokens < row.prompt_tokens
        assert 0 < row.ttft_p50_s <= row.ttft_p90_s
        assert row.engine_cpu_s > 0
    assert rows[0].prompt_tokens == rows[1].prompt_tokens
    assert "least_pending" in text(Report(rows=rows, load_before=0.0, load_after=0.0))
