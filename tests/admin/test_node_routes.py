"""The admin API's routes of nodes and of rollbacks, through real HTTP on a real store."""

from __future__ import annotations

import pytest

from nebula_core.interfaces import Put
from nebula_core.store import codec, keys
from nebula_core.testing.polling import eventually
from nebula_core.types import NodeRequest, NodeStatus


async def heard_of(nebula, *names):
    """Nodes that are up."""
    lease = await nebula.store.grant(30)
    await nebula.store.transact([Put(keys.node(name), codec.encode(NodeStatus(node_id=name, address="h")), lease) for name in names])

    async def seen():
        return {node["node_id"] for node in (await nebula.http.get("/admin/v1/nodes")).json()["nodes"]} >= set(names)

    await eventually(seen, 5)


async def asked(nebula, node_id):
    entry = await nebula.store.get(keys.node_request(node_id))
    return None if entry is None else codec.decode(NodeRequest, entry.value)


@pytest.mark.parametrize("path", ["gpu 1/rack", "gpu%201%2Frack"])
async def test_a_node_is_cordoned_drained_and_uncordoned_by_its_name_whatever_that_is(nebula, path):
    await heard_of(nebula, "gpu 1/rack")
    cordoned = await nebula.http.patch(f"/admin/v1/nodes/{path}", json={"cordoned": True})
    assert (cordoned.status_code, cordoned.json()["cordoned"], cordoned.json()["drained"]) == (200, True, False)
    assert (await nebula.http.patch(f"/admin/v1/nodes/{path}", json={"drained": True})).json()["drained"] is True
    assert await asked(nebula, "gpu 1/rack") == NodeRequest(node_id="gpu 1/rack", cordoned=True, drained=True)
    assert (await nebula.http.get(f"/admin/v1/nodes/{path}")).json()["drained"] is True
    uncordoned = (await nebula.http.patch(f"/admin/v1/nodes/{path}", json={"cordoned": False})).json()
    assert (uncordoned["up"], uncordoned["cordoned"], uncordoned["drained"]) == (True, False, False)
    assert await asked(nebula, "gpu 1/rack") is None


async def test_a_missing_node_is_given_up_and_known_no_more_once_that_is_taken_back(nebula):
    await nebula.store.transact([Put(keys.node_request("gone"), codec.encode(NodeRequest(node_id="gone", cordoned=True)))])
    await eventually(lambda: is_known(nebula, "gone"), 5)
    given_up = (await nebula.http.patch("/admin/v1/nodes/gone", json={"given_up": True})).json()
    assert (given_up["up"], given_up["cordoned"], given_up["given_up"]) == (False, True, True)
    uncordoned = await nebula.http.patch("/admin/v1/nodes/gone", json={"cordoned": False})
    assert (uncordoned.status_code, uncordoned.json()["cordoned"]) == (200, False)
    assert not await is_known(nebula, "gone")


async def test_a_nodes_request_goes_by_its_key_whatever_name_somebody_wrote_in_it(nebula):
    await heard_of(nebula, "a", "b")
    await nebula.store.transact([Put(keys.node_request("a"), codec.encode(NodeRequest(node_id="b", cordoned=True)))])

    async def shown():
        nodes = (await nebula.http.get("/admin/v1/nodes")).json()["nodes"]
        return {node["node_id"] for node in nodes if node["cordoned"]} == {"a"}

    await eventually(shown, 5)


async def is_known(nebula, node_id):
    return (await nebula.http.get(f"/admin/v1/nodes/{node_id}")).status_code == 200


@pytest.mark.parametrize(
    ("method", "node", "body", "status", "code", "message"),
    [
        ("GET", "nope", None, 404, "node_not_found", 'there is no node "nope" (nodes: a, b)'),
        ("PATCH", "nope", {"cordoned": True}, 404, "node_not_found", 'there is no node "nope" (nodes: a, b)'),
        ("PATCH", "a", {}, 400, "invalid_node_request", "the body names nothing to change: cordoned, drained or given_up"),
        ("PATCH", "a", {"cordon": True}, 400, "invalid_body", "body.cordon: Extra inputs are not permitted"),
        ("PATCH", "a", {"cordoned": "perhaps"}, 400, "invalid_body", "body.cordoned"),
        ("PATCH", "a", {"cordoned": None}, 400, "invalid_body", "body.cordoned"),
        ("PATCH", "a", {"cordoned": False, "drained": True}, 400, "invalid_node_request", "cordoned cannot be false"),
        ("PATCH", "a", {"given_up": True}, 400, "invalid_node_request", 'the node "a" is up, and only one that is missing can be given up'),
    ],
)
async def test_what_cannot_be_asked_of_a_node_is_refused_in_the_envelope(nebula, method, node, body, status, code, message):
    await heard_of(nebula, "a", "b")
    answer = await nebula.http.request(method, f"/admin/v1/nodes/{node}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert message in error["message"]
    assert await asked(nebula, "a") is None


async def test_a_model_is_rolled_back_by_its_name_with_slashes(nebula):
    for context in (1, 2):
        await nebula.http.put("/admin/v1/models/org/m", json={"engine": "fake", "context": context})
    for path, context in (("org/m", 1), ("org%2Fm", 2)):
        answer = await nebula.http.post(f"/admin/v1/models/{path}/rollback")
        assert (answer.status_code, answer.json()["request"]["engine_args"]) == (200, {"context": context})


async def test_a_rollback_that_is_not_possible_says_why(nebula):
    await nebula.http.put("/admin/v1/models/m", json={"engine": "fake"})
    refused = await nebula.http.post("/admin/v1/models/m/rollback")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_model_request")
    assert 'the model "m" has nothing to go back to' in refused.json()["error"]["message"]
    assert (await nebula.http.post("/admin/v1/models/nope/rollback")).status_code == 404


async def test_the_documentation_describes_what_may_be_asked_of_a_node(nebula):
    described = (await nebula.http.get("/openapi.json")).json()
    assert set(described["paths"]["/admin/v1/nodes/{node_id}"]) == {"get", "patch"}
    assert described["components"]["schemas"]["Asked"]["properties"]["drained"]["description"]
    assert "/admin/v1/models/{model_uid}/rollback" in described["paths"]
