import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nebula_retry_backoff import nebula_register_retries
from nebula_retry_backoff.budget import Budget, Spending
from nebula_retry_backoff.policy import Backoff, Settings

from nebula_core import Context, FailedAttempt
from nebula_core.metrics import Metrics
from nebula_core.testing.retry import RetryContract

NOW = 1000.0
BUDGET = Budget(share=0.1, per_s=3.0, window_s=10.0)


def make(**keys) -> tuple[Backoff, Metrics]:
    """A policy whose pauses are as long as the jitter makes them at most."""
    metrics = Metrics()
    context = Context(logger=logging.getLogger("test"), metrics=metrics, clock=lambda: NOW)
    return Backoff(Settings(**keys), context, lambda low, high: high), metrics


def failed(cause, **fields) -> FailedAttempt:
    return FailedAttempt(model_uid=fields.pop("model_uid", "m"), cause=cause, **fields)


class TestContract(RetryContract):
    def make_retry(self):
        [provider] = nebula_register_retries()
        return provider.build(Context(logger=logging.getLogger("test")), Settings())


@pytest.mark.parametrize("cause", ["refused", "reset"])
def test_what_no_engine_answered_is_tried_again_at_once_and_without_a_budget(cause):
    policy, _ = make(budget_share=0, budget_per_s=0)
    assert {policy.pause(failed(cause, before=(cause,) * i), NOW) for i in range(100)} == {0.0}


def test_an_engine_that_was_too_slow_makes_no_other_one_slow():
    assert make()[0].pause(failed("timeout"), NOW) is None


@pytest.mark.parametrize(("status", "pause"), [(502, 0.15), (503, 0.15), (504, 0.15), (500, None), (501, None), (400, None), (429, None)])
def test_only_answers_that_say_not_now_are_tried_again_after_a_pause(status, pause):
    assert make()[0].pause(failed("status", status=status), NOW) == pytest.approx(pause)


def test_a_pause_is_longer_or_shorter_by_chance():
    [provider] = nebula_register_retries()
    policy = provider.build(Context(logger=logging.getLogger("test")), Settings(budget_per_s=1000))
    pauses = [policy.pause(failed("status", status=503), NOW) for _ in range(200)]
    assert 0.05 <= min(pauses) < 0.08 < 0.12 < max(pauses) <= 0.15


def test_where_no_replica_is_left_there_is_one_more_try():
    policy, _ = make()
    assert policy.pause(failed("no_candidate", before=("refused", "refused")), NOW) == pytest.approx(0.15)
    assert policy.pause(failed("no_candidate", before=("refused", "no_candidate", "refused")), NOW) is None


@pytest.mark.parametrize(("retry_after_s", "tried"), [(0.0, True), (0.1, True), (0.2, False), (5.0, False)])
def test_an_engine_that_asks_for_a_longer_pause_is_obeyed(retry_after_s, tried):
    pause = make()[0].pause(failed("status", status=503, retry_after_s=retry_after_s), NOW)
    assert (pause is not None) == tried


def test_a_budget_that_is_spent_is_counted_and_belongs_to_one_model():
    policy, metrics = make()
    granted = [policy.pause(failed("status", status=503), NOW) is not None for _ in range(40)]
    assert granted == [True] * 30 + [False] * 10
    assert policy.pause(failed("status", status=503, model_uid="other"), NOW) is not None
    [family] = metrics.snapshot()
    assert (family.name, [(sample.labels, sample.value) for sample in family.samples]) == (
        "nebula_retry_budget_exhausted_total",
        [(("m",), 10)],
    )


def play(steps):
    """Steps are seconds that pass, requests answered meanwhile, retries asked for then; returns when each was granted, and refused."""
    spending, now, requests = Spending(BUDGET, since=NOW), NOW, 0
    granted, refused = [], []
    for elapsed, answered, asked in steps:
        now, requests = now + elapsed, requests + answered
        for _ in range(asked):
            (granted if spending.take(requests, now) else refused).append(now)
    return granted, refused


def in_window(times, end):
    return sum(end - BUDGET.window_s < at <= end for at in times)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500), st.integers(0, 20)), max_size=30))
@settings(max_examples=50, deadline=None)
def test_no_retry_is_refused_before_the_least_has_been_granted(steps):
    granted, refused = play(steps)
    assert all(in_window(granted, now) >= BUDGET.per_s * BUDGET.window_s for now in set(refused))


@pytest.mark.parametrize(("rate", "allowed"), [(10, 30), (100, 100), (500, 500)])
def test_in_a_window_a_tenth_of_the_requests_is_tried_again_or_three_a_second(rate, allowed):
    """A steady flow of which every request fails, for half a minute."""
    granted, _ = play([(0.1, rate // 10, rate // 10)] * 300)
    assert max(in_window(granted, now) for now in set(granted)) <= allowed
    assert in_window(granted, max(granted)) >= 0.9 * allowed


def test_a_rate_that_nothing_failed_at_counts_as_it_was():
    """An hour of a hundred requests a second allows what ten seconds of them would."""
    granted, _ = play([(3600, 360_000, 1000)])
    assert len(granted) == 100
