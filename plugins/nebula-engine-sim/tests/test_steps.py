import pytest
from nebula_engine_sim import CostModel, Happening, Job, StepEngine

PLAIN = CostModel(step_s=1.0, prefill_token_s=0.01, prefill_pair_s=0, decode_sequence_s=0.1, decode_context_s=0)


def engine(capacity=100, **options):
    return StepEngine(
        **{"block_size": 10, "capacity_blocks": capacity, "max_batched_tokens": 100, "max_sequences": 8, "cost": PLAIN} | options
    )


def job(name, *blocks, tokens=None, output=1, more=()):
    return Job(name, blocks, tokens or len(blocks) * 10, output, output_blocks=more)


def told(happened, kind="finished"):
    return {happening.request_id: pytest.approx(happening.at) for happening in happened if happening.kind == kind}


def test_a_prompt_longer_than_a_step_is_computed_in_pieces():
    one = engine()
    one.submit(job("a", *range(25)), 5.0)
    assert one.advance(99.0)[0] == Happening("first_token", "a", pytest.approx(5.0 + 3 * 1 + 250 * 0.01))


def test_decoding_goes_before_prompts_and_waits_for_them():
    one = engine()
    one.submit(job("a", 1, output=4), 0.0)
    one.advance(0.0)
    one.submit(job("b", *range(10, 20)), 0.5)
    happened = one.advance(99.0)
    # Steps: a's prompt (1.1 s); a's token and 99 of b's tokens (2.09); a's token and b's last one (1.11); a's last token (1.1).
    assert told(happened) == {"b": 1.1 + 2.09 + 1.11, "a": 1.1 + 2.09 + 1.11 + 1.1}
    assert told(happened, "first_token") == {"a": 1.1, "b": 4.3}


def test_attention_makes_the_end_of_a_prompt_dearer_than_its_start():
    one = engine(cost=CostModel(step_s=1.0, prefill_token_s=0, prefill_pair_s=1e-4, decode_sequence_s=0, decode_context_s=0.01))
    one.submit(job("a", *range(20), output=2), 0.0)
    first, last = one.advance(99.0)
    assert first.at == pytest.approx(1 + 5050e-4 + 1 + (5050 + 100 * 100) * 1e-4)
    assert last.at - first.at == pytest.approx(1 + 201 * 0.01)


def test_what_was_computed_is_found_but_for_the_last_token():
    one = engine()
    one.submit(job("a", 1, 2, 3), 0.0)
    one.advance(9.0)
    assert (one.cached_tokens((1, 2, 3), 30), one.cached_tokens((1, 2, 3), 31), one.cached_tokens((1, 4), 40)) == (20, 30, 10)
    one.submit(job("b", 1, 2, 3, tokens=35), 9.0)
    assert {happening.cached_tokens for happening in one.advance(99.0)} == {30}
    assert (one.prompt_tokens_total, one.cached_tokens_total) == (65, 30)


def test_an_answer_is_found_by_the_next_turn():
    one = engine()
    one.submit(job("a", 1, output=21, more=(2, 3)), 0.0)
    one.advance(99.0)
    assert one.cached_tokens((1, 2, 3, 4), 45) == 30


def test_the_last_token_of_an_answer_is_never_computed():
    one = engine()
    one.submit(job("a", 1, output=20, more=(2, 3)), 0.0)
    one.advance(99.0)
    assert one.cached_tokens((1, 2, 3, 4), 45) == 20


def test_the_youngest_gives_way_when_blocks_run_out_and_finds_its_blocks_again():
    one = engine(capacity=4)
    one.submit(job("old", 1, output=11), 0.0)
    one.submit(job("young", 2, output=11), 0.0)
    happened = one.advance(999.0)
    assert told(happened, "preempted") == {}
    one.submit(job("old", 3, output=25), 1000.0)
    one.submit(job("young", 4, output=25), 1000.0)
    happened = one.advance(9999.0)
    assert list(told(happened, "preempted")) == ["young"]
    assert list(told(happened)) == ["old", "young"]
    assert one.preemptions_total == 1
    assert one.usage == 0


def test_a_request_that_no_cache_holds_is_refused():
    one = engine(capacity=2)
    one.submit(job("fits", 1, output=11), 0.0)
    with pytest.raises(ValueError, match="large needs more tokens than the KV cache of 2 blocks holds"):
        one.submit(job("large", 1, output=12), 0.0)


def test_places_are_limited():
    one = engine(max_sequences=1)
    one.submit(job("a", 1, output=2), 0.0)
    one.submit(job("b", 2), 0.0)
    one.advance(0.0)
    assert (one.running, one.waiting) == (1, 1)
    assert told(one.advance(99.0)) == {"a": 2.2, "b": 3.3}


def test_an_aborted_request_is_not_heard_of_again():
    one = engine(max_sequences=2)
    for name in "abc":
        one.submit(job(name, output=9, tokens=20), 0.0)
    one.advance(0.5)
    for name in ("a", "c", "unknown"):
        one.abort(name, 0.5)
    assert set(told(one.advance(99.0))) == {"b"}
    assert (one.usage, one.next_at()) == (0, None)


def test_each_token_is_told_if_asked_for():
    one = engine(tokens=True)
    one.submit(job("a", 1, output=3), 0.0)
    assert [happening.kind for happening in one.advance(99.0)] == ["first_token", "token", "token", "finished"]


def test_the_backlog_is_the_prefill_before_it():
    one = engine()
    assert one.backlog_s(0.0) == 0
    one.submit(job("a", *range(20)), 0.0)
    one.submit(job("b", *range(20, 30)), 0.0)
    assert one.backlog_s(0.0) == pytest.approx(3 + 300 * 0.01)
    one.advance(0.0)
    assert one.backlog_s(1.0) == pytest.approx(1 + 2 + 200 * 0.01)


def test_what_waiting_requests_will_bring_is_known_to_an_oracle():
    one = engine()
    one.submit(job("a", 1, 2), 0.0)
    assert (one.cached_tokens((1, 2, 3), 30), one.cached_tokens((1, 2, 3), 30, queued=True)) == (0, 20)
    one.abort("a", 0.0)
    assert one.cached_tokens((1, 2, 3), 30, queued=True) == 0


@pytest.mark.parametrize("wrong", [{"step_s": 0}, {"prefill_token_s": -1}])
def test_costs_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CostModel(**wrong)
