from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from nebula_core.gateway.ledger import Ledger


def test_each_worker_hears_what_the_others_have():
    ledger = Ledger()
    ledger.report("a", [("m", "0", 2)])
    ledger.report("b", [("m", "0", 3), ("m", "1", 1)])
    assert set(ledger.elsewhere("a")) == {("m", "0", 3), ("m", "1", 1)}
    assert set(ledger.elsewhere("b")) == {("m", "0", 2)}


def test_what_was_told_is_not_repeated():
    ledger = Ledger()
    ledger.report("a", [])
    ledger.report("b", [("m", "0", 3)])
    assert ledger.elsewhere("a") == (("m", "0", 3),)
    assert ledger.elsewhere("a") == ()


def test_a_worker_that_is_gone_takes_its_requests_along():
    ledger = Ledger()
    ledger.report("a", [])
    ledger.report("b", [("m", "0", 3)])
    ledger.elsewhere("a")
    ledger.forget("b")
    assert ledger.elsewhere("a") == (("m", "0", 0),)


reports = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("01"), st.integers(0, 5)))


@given(reports, st.lists(st.sampled_from("abc"), max_size=2))
def test_what_a_worker_was_told_adds_up_to_the_others_counts(steps, gone):
    ledger, told = Ledger(), {name: {} for name in "abc"}
    counts: dict[str, Counter[str]] = {name: Counter() for name in "abc"}
    for worker, replica, count in steps:
        ledger.report(worker, [("m", replica, count)])
        counts[worker][replica] = count
        for name in "abc":
            told[name].update({replica: count for _, replica, count in ledger.elsewhere(name)})
    for worker in gone:
        ledger.forget(worker)
        counts[worker].clear()
        told[worker].clear()
    for name in "abc":
        told[name].update({replica: count for _, replica, count in ledger.elsewhere(name)})
        others = sum((counts[other] for other in "abc" if other != name), Counter())
        assert {replica: count for replica, count in told[name].items() if count} == dict(others)
