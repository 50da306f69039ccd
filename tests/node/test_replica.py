import pytest

from nebula_core.interfaces import Health
from nebula_core.node import replica as transitions
from nebula_core.node.replica import Phase
from nebula_core.types import DRAINING, READY, STARTING, UNHEALTHY, Assignment, EndpointInfo, ReplicaSpec

ASSIGNMENT = Assignment(replica_id="0", node_id="n", spec=ReplicaSpec(model_uid="m", engine="fake"), assignment_version="v1")
WELL = Health(True)
ILL = Health(False, "no answer")


def up(now=0.0, before=None):
    return transitions.probed(transitions.starting(ASSIGNMENT, 1, before, now), WELL, now)


def test_the_first_crash_of_a_ready_engine_costs_no_wait_and_later_ones_more_and_more():
    state, waits = up(), []
    for _ in range(9):
        state = transitions.ended(state, "crashed", 0.0)
        waits.append(state.due)
        state = up(before=state)
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_an_engine_that_was_ready_for_a_minute_starts_with_a_clean_sheet():
    state = up()
    for _ in range(4):
        state = up(before=transitions.ended(state, "crashed", 0.0))
    assert transitions.ended(state, "crashed", 61.0).due == 61.0


def test_an_engine_that_never_gets_ready_is_given_time_from_the_first_try():
    state, waits = None, []
    for _ in range(4):
        state = transitions.ended(transitions.starting(ASSIGNMENT, 1, state, 0.0), "no such file", 0.0)
        waits.append(state.due)
    assert waits == [1, 2, 4, 8]


def test_another_assignment_does_not_pay_for_the_crashes_of_the_one_before():
    crashed = transitions.ended(up(), "crashed", 0.0)
    other = Assignment(replica_id="0", node_id="n", spec=ASSIGNMENT.spec, assignment_version="v2")
    assert transitions.starting(other, 2, crashed, 0.0).crashes == 0


@pytest.mark.parametrize("probes", [[ILL, ILL], [ILL, ILL, WELL, ILL, ILL]])
def test_it_takes_three_failed_probes_in_a_row_to_be_unhealthy(probes):
    state = up()
    for health in probes:
        state = transitions.probed(state, health, 0.0)
    assert transitions.endpoint_of(state, "n").state == READY
    state = transitions.probed(state, ILL, 0.0)
    assert transitions.endpoint_of(state, "n").state == UNHEALTHY
    assert "no answer" in transitions.endpoint_of(state, "n").reason


def test_failed_probes_of_a_loading_engine_do_not_count():
    state = transitions.starting(ASSIGNMENT, 1, None, 0.0)
    for _ in range(10):
        state = transitions.probed(state, ILL, 0.0)
    assert transitions.endpoint_of(state, "n").state == STARTING


def test_while_it_is_restarted_the_reason_of_the_last_end_can_be_read():
    state = transitions.starting(ASSIGNMENT, 2, transitions.ended(up(), "exited with code 3", 0.0), 0.0)
    assert transitions.endpoint_of(state, "n").reason == "exited with code 3"
    assert transitions.endpoint_of(transitions.probed(state, WELL, 0.0), "n").reason == ""


@pytest.mark.parametrize(
    ("state", "incarnation", "phase"),
    [(READY, 4, Phase.UP), (DRAINING, 4, Phase.UP), (STARTING, 4, Phase.STARTING), (READY, 3, Phase.STARTING)],
)
def test_an_adopted_engine_counts_as_up_if_this_very_one_was_ready(state, incarnation, phase):
    endpoint = EndpointInfo(
        model_uid="m", replica_id="0", node_id="n", assignment_version="v1", incarnation=incarnation, engine="fake", state=state
    )
    assert transitions.adopted(ASSIGNMENT, 4, "http://h:1", "key", endpoint, 0.0).phase is phase
