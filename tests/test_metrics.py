"""Metrics: what instruments count, and that a merge over processes is a sum."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.metrics import Metrics
from nebula_core.snapshots import Family, Snapshot, merge

BOUNDS = (0.1, 1.0)
Observation = tuple[str, float]
observations = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3).map(float)), max_size=20)


def worker(seen: list[Observation]) -> Snapshot:
    metrics = Metrics()
    for label, value in seen:
        metrics.counter("requests", "Requests.", ["model"]).labels(label).inc(value)
        metrics.gauge("running", "Running.", ["model"]).labels(label).inc(value)
        metrics.histogram("seconds", "Seconds.", BOUNDS, ["model"]).labels(label).observe(value)
    return metrics.snapshot()


def values(snapshot: Snapshot) -> dict[tuple[str, tuple[str, ...]], tuple[float, tuple[int, ...]]]:
    return {(family.name, sample.labels): (sample.value, sample.buckets) for family in snapshot for sample in family.samples}


@given(st.lists(observations, max_size=4))
def test_merged_workers_look_like_one_that_saw_everything(workers: list[list[Observation]]) -> None:
    assert values(merge(map(worker, workers))) == values(worker([seen for part in workers for seen in part]))


@given(observations, observations, observations)
def test_the_order_and_grouping_of_a_merge_do_not_matter(a: list[Observation], b: list[Observation], c: list[Observation]) -> None:
    first, second, third = worker(a), worker(b), worker(c)
    assert values(merge([merge([first, second]), third])) == values(merge([third, merge([second, first])]))


@given(st.lists(observations, max_size=3))
def test_every_series_appears_once(workers: list[list[Observation]]) -> None:
    merged = merge(map(worker, workers))
    series = Counter((family.name, sample.labels) for family in merged for sample in family.samples)
    assert set(series.values()) <= {1}


def test_nothing_merged_is_nothing() -> None:
    assert merge([]) == ()


def test_an_observation_on_a_bound_belongs_below_it() -> None:
    histogram = Metrics().histogram("seconds", "Seconds.", BOUNDS)
    for value in (0.1, 0.5, 7.0):
        histogram.labels().observe(value)
    (sample,) = histogram.family().samples
    assert sample.buckets == (1, 1, 1)
    assert sample.value == pytest.approx(7.6)


def test_a_name_asked_for_again_is_the_same_instrument() -> None:
    metrics = Metrics()
    metrics.counter("requests", "Requests.").labels().inc()
    metrics.counter("requests", "Requests.").labels().inc()
    assert metrics.snapshot()[0].samples[0].value == 2


def test_a_name_with_two_meanings_is_refused() -> None:
    metrics = Metrics()
    metrics.counter("requests", "Requests.")
    with pytest.raises(ValueError, match="requests is declared twice"):
        metrics.gauge("requests", "Requests.")


@pytest.mark.parametrize(("name", "label"), [("a b", "c"), ("", "c"), ("a", "b-c"), ("a", "1"), ("a\n", "c"), ("__a", "c")])
def test_a_name_that_formats_do_not_take_is_refused(name: str, label: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        Metrics().counter(name, "Requests.", [label])


def test_a_wrong_number_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="model"):
        Metrics().counter("requests", "Requests.", ["model"]).labels("a", "b")


def test_a_removed_series_is_gone() -> None:
    gauge = Metrics().gauge("running", "Running.", ["replica"])
    gauge.labels("r1").set(1)
    gauge.remove("r1")
    assert gauge.family().samples == ()


def test_a_snapshot_survives_the_wire() -> None:
    snapshot = worker([("a", 1.0), ("b", 0.0)])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=tuple[Family, ...]) == snapshot
