"""The benchmark measures what it says, on a fleet that is small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_bench.figures import lines, quantile
from nebula_bench.store import measure


def test_a_small_fleet_is_heard_of_and_measured():
    figures = measure(nodes=2, engines=2, seconds=1.5, heartbeat_s=0.3)
    summary = figures.summary()
    assert figures.heartbeats >= 2
    assert figures.keys == figures.transactions * (1 + 2)
    assert figures.transactions <= figures.heartbeats + 2  # those under way at the beginning
    assert 0 < summary["write_to_candidate_p50_ms"] <= summary["write_to_candidate_p99_ms"]
    assert "transactions per s" in lines(summary)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_a_quantile_is_a_value_that_that_share_does_not_exceed(values, share):
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_of_nothing_there_is_no_quantile():
    assert quantile([], 0.99) == pytest.approx(0.0)
