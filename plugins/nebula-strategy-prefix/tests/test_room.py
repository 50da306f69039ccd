from hypothesis import given
from hypothesis import strategies as st
from nebula_strategy_prefix.room import Room


def room(running: int, queued: int = 0, usage: float | None = None) -> Room:
    """A memory of 1,000 bytes; who runs goes on for 20 s."""
    found = Room(1000)
    found.running, found.queued = running, queued
    found.note(running / 1000 if usage is None else usage, 1000, 0)
    found.reckon(20.0)
    return found


def test_a_prompt_that_has_room_waits_for_nothing():
    assert room(500).lacking_s(500) == 0


def test_a_prompt_that_has_none_waits_for_its_share_of_what_is_held():
    assert room(800).lacking_s(600) == 20.0 * 400 / 800


def test_those_who_wait_need_room_first():
    found = room(500, queued=400)
    assert found.short == -100
    assert (found.short + 300) * found.release_s == 20.0 * 200 / 900


def test_an_engine_that_reports_no_use_has_room_for_everybody():
    found = Room(1000)
    found.running = 5000
    found.note(None, 1000, 0)
    assert found.lacking_s(900) == 0
    assert found.short == float("-inf")


def test_what_prompts_have_in_common_takes_room_once():
    found = Room(1000)
    found.running = 3000
    for _ in range(40):
        found.note(0.5, 1000, 0)
    found.reckon(20.0)
    assert found.lacking_s(400) == 0


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**9), st.floats(0, 1), st.floats(0, 1e5), st.integers(0, 10**9))
def test_a_wait_is_never_negative(running, queued, budget, usage, life_s, total):
    found = Room(budget)
    found.running, found.queued = running, queued
    found.note(usage, budget, total)
    found.reckon(life_s)
    assert found.lacking_s(total) >= 0
    assert found.release_s >= 0
