"""Keys lead to what they are about and back; one of another shape leads nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.store import keys

ODD = [
    "/stats/foo",
    "/stats/m/r/x",
    "/endpoints/",
    "/endpoints//0",
    "/placements/",
    "/placements/a/b/c",
    "/model_requests/a/b",
    "/seeds/host",
    "/placements/no-text-\udcff",
    "/endpoints/\udcff\udcfe/0",
    "",
    "/",
]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(names, names)
def test_a_replica_is_found_in_its_keys(uid: str, replica_id: str):
    for key in (keys.endpoint(uid, replica_id), keys.stats(uid, replica_id)):
        assert keys.replica_of(key) == (uid, replica_id)
        assert keys.model_of(key) == uid


@given(names)
def test_a_model_is_found_in_its_keys(uid: str):
    for key in (keys.model_request(uid), keys.placement(uid), keys.status(uid)):
        assert keys.model_of(key) == uid
        assert keys.replica_of(key) is None


@given(names)
def test_a_node_is_found_in_its_keys(node_id: str):
    for key in (keys.node(node_id), keys.node_request(node_id)):
        assert keys.node_of(key) == node_id


@pytest.mark.parametrize("key", ODD)
def test_a_key_of_another_shape_leads_nowhere(key: str):
    assert keys.model_of(key) is None
    assert keys.replica_of(key) is None
    assert keys.node_of(key) is None


def test_values_are_sorted_by_what_their_keys_are_about_and_the_odd_ones_left_out():
    assert keys.by_model({keys.placement("org/m"): 1, **dict.fromkeys(ODD, 2)}) == {"org/m": 1}
    assert keys.by_node({keys.node_request("rack 1/a"): 1, **dict.fromkeys(ODD, 2)}) == {"rack 1/a": 1}
    assert keys.by_replica({keys.endpoint("org/m", "0"): 1, **dict.fromkeys(ODD, 2)}) == {("org/m", "0"): 1}
