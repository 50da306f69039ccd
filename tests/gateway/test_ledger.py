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


def test_other_gateways_count_for_workers_but_are_none_of_ours():
    ledger = Ledger()
    ledger.report("a", [("m", "0", 2)])
    ledger.report_peer("far", [("m", "0", 3)])
    assert ledger.elsewhere("a") == (("m", "0", 3),)
    assert ledger.total() == {("m", "0"): 2}
    assert ledger.ours() == (("m", "0", 2),)


def test_what_a_worker_could_not_understand_is_told_again():
    ledger = Ledger()
    ledger.report_peer("far", [("m", "0", 3)])
    assert ledger.elsewhere("a") == (("m", "0", 3),)
    assert ledger.elsewhere("a") == ()
    ledger.tell_again([("m", "0"), ("m", "1")])
    assert set(ledger.elsewhere("a")) == {("m", "0", 3), ("m", "1", 0)}


sources = st.sampled_from(["a", "b", "c", "far", "further"])
steps = st.lists(
    st.one_of(
        st.tuples(sources, st.sampled_from("01"), st.integers(0, 5)),
        st.tuples(sources, st.none(), st.none()),  # it is gone
        st.tuples(st.just("again"), st.sampled_from("01"), st.none()),
    )
)


@given(steps)
def test_what_each_was_told_adds_up_to_the_others_counts(steps):
    ledger, told = Ledger(), {name: Counter() for name in "abc"}
    ours_told: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("a", "b", "c", "far", "further")}
    for source, replica, count in steps:
        if source == "again":
            ledger.tell_again([("m", replica)])
        elif replica is None:
            ledger.forget(source)
            counts[source].clear()
            told.get(source, {}).clear()
        else:
            (ledger.report if source in "abc" else ledger.report_peer)(source, [("m", replica, count)])
            counts[source][replica] = count
        for name in "abc":
            take(told[name], ledger.elsewhere(name))
            assert +told[name] == sum((counts[other] for other in counts if other != name), Counter())
        before = {replica: count for _, replica, count in ledger.told_of_ours()}
        assert before == +ours_told, "whoever comes now begins with what the others know"
        take(ours_told, ledger.ours())
        assert +ours_told == +ledger_total(ledger) == counts["a"] + counts["b"] + counts["c"]


def take(told: Counter[str], news) -> None:
    told.update({replica: count - told[replica] for _, replica, count in news})


def ledger_total(ledger: Ledger) -> Counter[str]:
    return Counter({replica: count for (_, replica), count in ledger.total().items()})
