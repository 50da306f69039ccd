"""Whatever is asked of an engine: nothing leaks, nothing is lost, time goes on, and leaps change nothing."""

from hypothesis import given
from hypothesis import strategies as st
from nebula_engine_sim import CostModel, FcfsEngine, Job, StepEngine

BLOCK = 4
CAPACITY = 12


@st.composite
def jobs(draw):
    """Prompts that share their beginnings in many ways: a block's hash names the path to it."""
    path, blocks = 0, []
    for turn in draw(st.lists(st.integers(0, 1), max_size=6)):
        path = path * 2 + turn + 1
        blocks.append(path)
    prompt = len(blocks) * BLOCK + draw(st.integers(0 if blocks else 1, BLOCK - 1))
    output = draw(st.integers(1, CAPACITY * BLOCK + 1 - prompt))
    more = tuple(path * 1000 + place for place in range((prompt + output) // BLOCK - len(blocks))) if draw(st.booleans()) else ()
    return tuple(blocks), prompt, output, more


commands = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), jobs()),
        st.tuples(st.just("abort"), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.floats(0, 3)),
        st.tuples(st.just("next"), st.none()),
    ),
    max_size=40,
)


def make(**options):
    cost = CostModel(step_s=0.1, prefill_token_s=0.003, prefill_pair_s=1e-5, decode_sequence_s=0.007, decode_context_s=1.1e-4)
    return StepEngine(block_size=BLOCK, capacity_blocks=CAPACITY, max_batched_tokens=16, max_sequences=4, cost=cost, **options)


def replay(engine, script, look=lambda engine: None):
    """Run a script to the end of all work; returns what happened and who was aborted."""
    now, count, happened, aborted = 0.0, 0, [], set()
    for command, what in script:
        if command == "submit":
            blocks, prompt, output, more = what
            engine.submit(Job(str(count), blocks, prompt, output, output_blocks=more), now)
            count += 1
        elif command == "abort":
            engine.abort(str(what), now)
            aborted.add(str(what))
        elif command == "wait":
            now += what
            happened += engine.advance(now)
        else:
            now = max(now, engine.next_at() or 0.0)
            happened += engine.advance(now)
        look(engine)
    while (at := engine.next_at()) is not None:
        happened += engine.advance(at)
        look(engine)
    return happened, {str(number) for number in range(count)}, aborted


def blocks_add_up(engine):
    cache, batch = engine.cache, engine._batch
    assert cache.used + len(cache.idle) <= cache.capacity
    assert cache.private >= 0
    assert not cache.shared.keys() & cache.idle.keys()
    assert cache.private == sum(sequence.private for sequence in batch.running)
    held = [block for sequence in batch.running for block in sequence.shared]
    assert {block: held.count(block) for block in held} == cache.shared


@given(commands)
def test_blocks_never_leak_and_are_never_counted_twice(script):
    engine = make()
    replay(engine, script, blocks_add_up)
    assert (engine.cache.shared, engine.cache.private, engine.usage) == ({}, 0, 0)
    assert (engine.running, engine.waiting) == (0, 0)


@given(commands, st.sampled_from([make, FcfsEngine]))
def test_every_request_finishes_once_or_is_aborted_and_time_never_goes_back(script, kind):
    happened, submitted, aborted = replay(kind(), script)
    finished = [happening.request_id for happening in happened if happening.kind == "finished"]
    assert len(finished) == len(set(finished))
    assert submitted - aborted <= set(finished) <= submitted
    times = [happening.at for happening in happened]
    assert times == sorted(times)
    firsts = [happening.request_id for happening in happened if happening.kind == "first_token"]
    assert len(firsts) == len(set(firsts))
    assert set(finished) <= set(firsts)


@given(commands)
def test_leaps_and_single_steps_come_to_exactly_the_same(script):
    leaping, walking = make(), make(leap=False)

    def without_next(one):
        return [("wait", 0.37) if command == "next" else (command, what) for command, what in one]

    assert replay(leaping, without_next(script)) == replay(walking, without_next(script))
    assert (leaping.cache.idle, leaping.stats(1e6)) == (walking.cache.idle, walking.stats(1e6))


@given(commands)
def test_looking_often_changes_nothing(script):
    def often(engine):
        engine.backlog_s(1e9), engine.next_at(), engine.cached_tokens((1, 2), 12, queued=True)

    assert replay(make(), script, often) == replay(make(), script)


@given(commands)
def test_tokens_are_told_as_often_as_they_were_asked_for(script):
    engine = make(tokens=True)
    happened, submitted, aborted = replay(engine, script)
    wanted = [what[2] for command, what in script if command == "submit"]
    for name in submitted - aborted:
        told = [happening.kind for happening in happened if happening.request_id == name and happening.kind != "preempted"]
        assert told == ["first_token", *["token"] * (wanted[int(name)] - 1), "finished"]
