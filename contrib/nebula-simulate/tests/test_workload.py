"""What is sent when, and what prompts share."""

from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_simulate.traces import Session, Trace, Turn
from nebula_simulate.workload import RAMP_S, Demand, clients, hashed


def turn(*blocks, pause_s=0.0):
    return Turn(pause_s, 512 * max(1, len(blocks)), 10, array("q", blocks))


TIMED = Trace(Path("timed"), [Session(3.0 * n, (turn(1, n),)) for n in range(100)], tick_s=3.0)
AGENTS = Trace(Path("agents"), [Session(0.0, (turn(1), turn(1, 2), turn(1, 2, 3)))] * 5, timed=False)


@given(st.sets(st.integers(0, 2**63), max_size=50))
def test_different_blocks_have_different_hashes(ids):
    assert len(set(hashed(ids))) == len(ids)
    assert all(0 <= value < 2**64 for value in hashed(ids))


def test_a_request_comes_within_its_tick_and_sooner_under_a_higher_load():
    once, twice = (clients(Demand(TIMED, load, seed=1, clients=0)) for load in (1.0, 2.0))
    assert all(3.0 * n <= client.start_s <= 3.0 * (n + 1) for n, client in enumerate(once))
    assert [client.start_s / 2 for client in once] == [client.start_s for client in twice]


def test_a_seed_moves_requests_and_a_duration_ends_them():
    one, other = (clients(Demand(TIMED, 1.0, seed=seed, clients=0)) for seed in (1, 2))
    assert [client.start_s for client in one] != [client.start_s for client in other]
    assert len(clients(Demand(TIMED, 2.0, seed=1, clients=0, duration_s=30.0))) == 10


def test_prompts_share_what_the_trace_says_and_nothing_if_they_are_to_be_distinct():
    shared, distinct = (
        [next(client.prompts).blocks for client in clients(Demand(TIMED, 1.0, 1, 0, distinct=flag))] for flag in (False, True)
    )
    assert len({blocks[0] for blocks in shared}) == 1
    assert len({block for blocks in distinct for block in blocks}) == 200


def test_a_prompt_without_blocks_costs_nothing_until_it_is_sent_however_long_it_is():
    endless = Trace(Path("endless"), [Session(0.0, (Turn(0.0, 10**15, 1, None),))])
    [client] = clients(Demand(endless, 1.0, 1, 0))
    assert next(client.prompts).tokens == 10**15


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
def test_load_is_how_many_agents_there_are(load):
    found = clients(Demand(AGENTS, load, seed=1, clients=6))
    assert len(found) == 6 * load
    assert all(0 <= client.start_s <= RAMP_S for client in found)


def test_an_agent_goes_on_with_another_session_that_shares_nothing_with_the_last():
    agent = clients(Demand(AGENTS, 1.0, seed=1, clients=6))[0]
    first, second = ([next(agent.prompts).blocks for _ in range(3)] for _ in range(2))
    assert first[0] == first[1][:1] == first[2][:1]
    assert not set(first[2]) & set(second[2])
