"""What every retry policy must do, whatever it goes by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from nebula_core.interfaces import Cause, FailedAttempt, Retry

LONGEST_PAUSE_S = 60.0
"""A client that hears nothing for longer has most likely gone."""

CAUSES = st.sampled_from(get_args(Cause))
FAILURES = st.builds(
    FailedAttempt,
    model_uid=st.sampled_from(["m", "org/m"]),
    cause=CAUSES,
    status=st.integers(400, 599),
    retry_after_s=st.none() | st.floats(0, 1e9),
    before=st.lists(CAUSES, max_size=5).map(tuple),
    answered=st.integers(0, 10**9),
)


class RetryContract(ABC):
    """Inherit it in a test class and make the policy under test."""

    @abstractmethod
    def make_retry(self) -> Retry:
        """A fresh policy with its default settings."""

    @given(failures=st.lists(st.tuples(FAILURES, st.floats(0, 100)), max_size=10))
    @settings(max_examples=50, deadline=None)
    def test_it_says_a_pause_or_none_whatever_failed(self, failures: list[tuple[FailedAttempt, float]]) -> None:
        """In any order, for any model, after any time."""
        retry, now = self.make_retry(), 1000.0
        for failed, elapsed in failures:
            now += elapsed
            pause = retry.pause(failed, now)
            assert pause is None or 0 <= pause <= LONGEST_PAUSE_S

    def test_a_request_that_fails_for_ever_is_given_up(self) -> None:
        """Refusals are bounded by the number of replicas; waiting for one, and being answered with an error, are not."""
        causes: tuple[Cause, ...] = ("no_candidate", "status")
        for cause in causes:
            retry, now = self.make_retry(), 1000.0
            for made in range(1000):
                pause = retry.pause(FailedAttempt(model_uid="m", cause=cause, status=503, before=(cause,) * made), now)
                if pause is None:
                    break
                now += pause
            else:
                raise AssertionError(f"it tries again for ever after {cause}")

    def test_it_waits_no_less_than_the_engine_asks_for(self) -> None:
        """A `Retry-After` that is longer than its pause is the client's to keep."""
        pause = self.make_retry().pause(FailedAttempt(model_uid="m", cause="status", status=503, retry_after_s=30.0), 1000.0)
        assert pause is None or pause >= 30.0
