"""Which revision was the newest at what time, and whether a place can follow another."""

from hypothesis import given
from hypothesis import strategies as st
from nebula_store_etcd.history import Place, Trail

STEPS = st.lists(st.tuples(st.floats(0, 200), st.integers(0, 50)), max_size=200)


@given(STEPS)
def test_a_trail_never_names_a_revision_that_is_younger_than_promised(steps: list[tuple[float, int]]) -> None:
    trail, now, revision, seen = Trail(100), 0.0, 1, []
    for seconds, writes in steps:
        now, revision = now + seconds, revision + writes
        trail.note(now, Place(1, 1, revision))
        seen.append((now, revision))
        newest_then = max((r for at, r in seen if at <= now - 100), default=0)
        assert (trail.before(now) or 0) <= newest_then


def test_a_trail_that_is_fed_steadily_lags_by_little_more_than_the_promised_time() -> None:
    trail = Trail(100)
    for second in range(1000):
        trail.note(second, Place(1, 1, 10 * second))
        if second > 110:
            assert 10 * (second - 108) <= (trail.before(second) or 0) <= 10 * (second - 100)


def test_a_trail_knows_nothing_of_the_time_before_it() -> None:
    trail = Trail(100)
    assert trail.before(1000) is None
    trail.note(0, Place(1, 1, 5))
    assert trail.before(99) is None
    assert trail.before(100) == 5


def test_a_member_that_lags_behind_and_another_cluster_do_not_mislead() -> None:
    trail = Trail(100)
    trail.note(0, Place(1, 2, 50))
    trail.note(50, Place(1, 2, 40))
    assert trail.before(150) == 50
    trail.note(60, Place(2, 2, 70))
    assert trail.before(150) is None


def test_what_cannot_be_later_in_the_same_history() -> None:
    place = Place(1, 5, 100)
    assert Place(1, 6, 101).follows(place)
    for other in (Place(2, 6, 101), Place(1, 4, 101), Place(1, 6, 99)):
        assert not other.follows(place)
