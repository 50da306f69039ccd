"""What is said of a strategy whose signals are missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.admin.routing import obstacle
from nebula_core.interfaces import Strategy
from nebula_core.types import EndpointStats


class Load(Strategy):
    def select(self, request, candidates):
        return None


class Kv(Load):
    signals = ("kv_cache_used_bytes", "kv_cache_usage")


class Rate(Load):
    signals = ("prefix_cache_hit_rate",)
    signals_of = "any"


class Misspelt(Load):
    signals = ("kv_usage",)


INSTALLED = {"kv": Kv(), "rate": Rate(), "load": Load(), "misspelt": Misspelt()}
BYTES, USAGE, RATE, NONE = (
    EndpointStats(kv_cache_used_bytes=1),
    EndpointStats(kv_cache_usage=0),
    EndpointStats(prefix_cache_hit_rate=0),
    EndpointStats(),
)
NO_KV = "kv lacks kv_cache_used_bytes or kv_cache_usage of"


@pytest.mark.parametrize(
    ("strategy", "fallback", "stats", "said"),
    [
        ("load", "load", [NONE], ""),
        ("kv", "load", [], ""),
        ("kv", "load", [BYTES, BYTES], ""),
        ("kv", "load", [USAGE, USAGE], ""),
        ("kv", "load", [BYTES, USAGE], f"{NO_KV} 1 of 2 ready replicas (1); load decides"),
        ("kv", "load", [NONE, USAGE, NONE], f"{NO_KV} 2 of 3 ready replicas (0, 2); load decides"),
        ("kv", "load", [NONE] * 4 + [USAGE], f"{NO_KV} 4 of 5 ready replicas (0, 1, 2, …); load decides"),
        ("kv", "load", [NONE, NONE], f"{NO_KV} 2 of 2 ready replicas; load decides"),
        ("kv", "kv", [NONE], f"{NO_KV} 1 of 1 ready replicas; the replica with the fewest requests is taken"),
        ("kv", "rate", [NONE], f"{NO_KV} 1 of 1 ready replicas; the replica with the fewest requests is taken"),
        ("kv", "rate", [RATE], f"{NO_KV} 1 of 1 ready replicas; rate decides"),
        ("rate", "load", [NONE, RATE], ""),
        ("rate", "load", [NONE, NONE], "rate lacks prefix_cache_hit_rate of 2 of 2 ready replicas; load decides"),
        ("misspelt", "load", [BYTES], "misspelt lacks kv_usage of 1 of 1 ready replicas; load decides"),
        (
            "none",
            "load",
            [NONE],
            'the strategy "none" is not installed here (installed: kv, load, misspelt, rate); where it is not, load decides',
        ),
    ],
)
def test_what_is_missing_is_said_and_who_decides_instead(strategy, fallback, stats, said):
    assert obstacle(strategy, fallback, INSTALLED, {str(at): one for at, one in enumerate(stats)}) == said


def test_a_process_without_strategies_says_nothing_of_them():
    assert obstacle("prefix", "least_pending", {}, {"0": NONE}) == ""


@given(st.sampled_from(["kv", "rate"]), st.lists(st.sampled_from([NONE, BYTES, USAGE, RATE]), min_size=1))
def test_it_speaks_up_exactly_when_no_signal_is_known_of_enough_replicas(name, stats):
    enough = any if name == "rate" else all
    known = any(enough(getattr(one, signal) is not None for one in stats) for signal in INSTALLED[name].signals)
    assert bool(obstacle(name, "load", INSTALLED, {str(at): one for at, one in enumerate(stats)})) is not known
