"""A fleet of two nodes on a real etcd, one of which an operator empties while clients ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nebula_store_etcd.testing import running

from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

MODEL = '[[models]]\nmodel_uid = "m"\nengine = "fake"\nreplicas = 3\nword_s = 0.02\n'


@pytest.fixture
def fleet(tmp_path, make_nebula, fake_engines) -> Iterator[tuple[Nebula, Nebula]]:
    """A whole Nebula with the node `one`, and beside it the node `two`."""
    with running(tmp_path / "etcd") as etcd:
        common = f'[store]\nuse = "etcd"\n[store_etcd]\nendpoints = ["{etcd.endpoint}"]\n'
        whole, beside = make_nebula(common + MODEL, python_path=fake_engines), make_nebula(common, python_path=fake_engines)
        for part, name in ((whole, "one"), (beside, "two")):
            part.settings.write_text(part.settings.read_text().replace('[node]\nname = ""', f'[node]\nname = "{name}"'))
        whole.start()
        beside.start(role="node")
        eventually(lambda: len(nodes(whole)) == 2, 30)
        yield whole, beside


def nodes(nebula: Nebula) -> dict[str, list[str]]:
    """The replicas on each node."""
    return {node["node_id"]: [each["replica_id"] for each in node["assigned"]] for node in nebula.admin.nodes()}


def test_a_drained_node_is_emptied_and_no_request_is_lost(fleet, traffic):
    nebula, _ = fleet
    assert len(nodes(nebula)["one"]) == 3
    with traffic(nebula) as seen:
        assert nebula.cli("nodes", "drain", "one", "--timeout", "60").stdout.endswith("empty: one\n")
        assert {name: len(replicas) for name, replicas in nodes(nebula).items()} == {"one": 0, "two": 3}
        refused = nebula.cli("nodes", "drain", "two", "--timeout", "1", check=False)
        nebula.cli("nodes", "uncordon", "one", "two")
    assert seen.lost == []
    assert seen.answered
    assert refused.returncode == 1
    assert "it cannot move" in refused.stderr
    assert len(nodes(nebula)["two"]) == 3
