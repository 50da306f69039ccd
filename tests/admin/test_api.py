"""The admin API through real HTTP, on a real store."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from nebula_core.errors import PluginError
from nebula_core.interfaces import Put
from nebula_core.store import codec, keys
from nebula_core.testing.polling import eventually
from nebula_core.types import ModelRequest

TABLE = {"engine": "fake", "replicas": 2, "context": 7}


async def stored(nebula, model_uid):
    entry = await nebula.store.get(keys.model_request(model_uid))
    return None if entry is None else codec.decode(ModelRequest, entry.value)


@pytest.mark.parametrize("path", ["Qwen/Qwen3-8B", "Qwen%2FQwen3-8B"])
async def test_a_model_is_loaded_scaled_and_unloaded_by_its_name_with_slashes(nebula, path):
    loaded = await nebula.http.put(f"/admin/v1/models/{path}", json=TABLE)
    assert (loaded.status_code, loaded.json()) == (201, {"model_uid": "Qwen/Qwen3-8B", "change": "created"})
    scaled = await nebula.http.patch(f"/admin/v1/models/{path}", json={"replicas": 5})
    assert (scaled.status_code, scaled.json()["wanted"]) == (200, 5)
    assert (await stored(nebula, "Qwen/Qwen3-8B")).engine_args == {"context": 7}
    unloaded = await nebula.http.delete(f"/admin/v1/models/{path}")
    assert (unloaded.status_code, await stored(nebula, "Qwen/Qwen3-8B")) == (200, None)


async def test_who_writes_and_then_looks_sees_it(nebula):
    for replicas in range(1, 20):
        await nebula.http.put("/admin/v1/models/m", json={**TABLE, "replicas": replicas})
        assert (await nebula.http.get("/admin/v1/models/m")).json()["wanted"] == replicas


async def test_loading_a_model_again_tells_whether_anything_changed(nebula):
    for table, change in ((TABLE, "created"), (TABLE, "unchanged"), ({**TABLE, "replicas": 3}, "updated")):
        assert (await nebula.http.put("/admin/v1/models/m", json=table)).json()["change"] == change


@pytest.mark.parametrize("key", [keys.STATS, f"{keys.STATS}foo", f"{keys.STATS}m/r/x", keys.MODEL_REQUESTS, f"{keys.NODE_REQUESTS}a"])
async def test_a_key_of_another_shape_does_not_end_the_status(nebula, key):
    await nebula.store.transact([Put(key, b'{"model_uid": "x", "engine": "fake"}')])
    await nebula.http.put("/admin/v1/models/m", json=TABLE)
    assert [model["model_uid"] for model in (await nebula.http.get("/admin/v1/status")).json()["models"]] == ["m"]


async def test_bounds_can_be_set_and_lifted(nebula):
    await nebula.http.put("/admin/v1/models/m", json=TABLE)
    await nebula.http.patch("/admin/v1/models/m", json={"max_replicas": 1})
    assert (await stored(nebula, "m")).replicas == 1
    await nebula.http.patch("/admin/v1/models/m", json={"max_replicas": None, "replicas": 9})
    assert (await stored(nebula, "m")).max_replicas is None


async def test_applying_writes_all_models_or_none(nebula):
    good, bad = {"model_uid": "good", **TABLE}, {"model_uid": "bad", "engine": "vllm"}
    refused = await nebula.http.post("/admin/v1/apply", json={"models": [good, bad]})
    assert (refused.status_code, await stored(nebula, "good")) == (400, None)
    applied = await nebula.http.post("/admin/v1/apply", json={"models": [good]})
    assert applied.json() == {"models": [{"model_uid": "good", "change": "created"}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "message"),
    [
        ("GET", "models/nope", None, 404, "model_not_found", 'there is no model "nope" (models: m)'),
        ("DELETE", "models/nope", None, 404, "model_not_found", 'there is no model "nope" (models: m)'),
        ("PATCH", "models/nope", {"replicas": 1}, 404, "model_not_found", 'there is no model "nope" (models: m)'),
        ("PATCH", "models/m", {}, 400, "invalid_model_request", "the body names nothing to change: replicas"),
        ("PATCH", "models/m", {"replicas": -1}, 400, "invalid_body", "body.replicas: Input should be greater than or equal to 0"),
        ("PATCH", "models/m", {"min_replicas": -1}, 400, "invalid_body", "body.min_replicas: Input should be greater than or equal to 0"),
        ("PATCH", "models/m", {"min_replicas": 3, "max_replicas": 2}, 400, "invalid_model_request", "min_replicas (3) is above max_re"),
        ("PATCH", "models/m", {"replica": 1}, 400, "invalid_body", "body.replica: Extra inputs are not permitted"),
        ("PUT", "models/n", {"engine": "vllm"}, 400, "invalid_model_request", 'the engine "vllm" is not installed (installed: fake)'),
        ("PUT", "models/n", {}, 400, "invalid_model_request", 'the model "n" lacks the key "engine"'),
        ("PUT", "models/n", [1], 400, "invalid_body", "body: Input should be a valid dictionary"),
        ("PUT", "models/n", {**TABLE, "model_uid": "o"}, 400, "invalid_model_request", 'the path names the model "n", the body "o"'),
        ("PUT", "models/n", {**TABLE, "aliases": ["m"]}, 400, "invalid_model_request", 'the name "m" is used by two models'),
        ("PUT", "models/n", {**TABLE, "api_key": "********"}, 400, "invalid_model_request", "api_key is a masked secret"),
        ("GET", "nothing", None, 404, "not_found", "GET /admin/v1/nothing: Not Found; /docs shows what there is"),
        ("POST", "status", None, 405, "method_not_allowed", "POST /admin/v1/status"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_the_envelope(nebula, method, path, body, status, code, message):
    await nebula.http.put("/admin/v1/models/m", json=TABLE)
    answer = await nebula.http.request(method, f"/admin/v1/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert message in error["message"]


async def test_two_tables_for_one_model_are_refused_by_its_name(nebula):
    answer = await nebula.http.post("/admin/v1/apply", json={"models": [{"model_uid": "m", **TABLE}, {"model_uid": "m", **TABLE}]})
    assert (answer.status_code, await stored(nebula, "m")) == (400, None)
    assert 'the model "m" is asked for twice' in answer.json()["error"]["message"]


async def test_a_body_that_is_no_json_is_refused(nebula):
    answer = await nebula.http.put("/admin/v1/models/m", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")


async def test_a_store_that_is_gone_is_a_503(nebula):
    await nebula.store.__aexit__(None, None, None)
    answer = await nebula.http.put("/admin/v1/models/m", json=TABLE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert (await nebula.http.get("/admin/v1/status")).status_code == 200
    await nebula.store.__aenter__()


async def test_secrets_are_masked_in_settings_and_requests(serve_admin):
    async with serve_admin(plugin_tables={"engine_sim": {"hub_token": "hf_abc", "url": "http://me:pass@there"}}) as nebula:
        await nebula.http.put("/admin/v1/models/m", json={**TABLE, "api_key": "sk-1"})
        settings = (await nebula.http.get("/admin/v1/settings")).json()
        assert settings["plugin_tables"]["engine_sim"] == {"hub_token": "********", "url": "http://********@there"}
        assert (await nebula.http.get("/admin/v1/models/m")).json()["request"]["engine_args"]["api_key"] == "********"


async def test_a_text_of_the_secrets_file_is_shown_nowhere(serve_admin, tmp_path):
    secrets = tmp_path / ".secrets.toml"
    secrets.write_text('[[models]]\nchat_template = "confidential"\n')
    async with serve_admin(files=[secrets]) as nebula:
        await nebula.http.put("/admin/v1/models/m", json={**TABLE, "chat_template": "confidential"})
        assert "confidential" not in (await nebula.http.get("/admin/v1/models/m")).text
        assert "confidential" not in (await nebula.http.get("/admin/v1/status")).text


async def test_the_metrics_come_as_they_are(nebula):
    nebula.metrics.counter("nebula_test_total", "A test.", ["kind"]).labels("x").inc(3)
    (family,) = (await nebula.http.get("/admin/v1/metrics/snapshot")).json()["families"]
    assert (family["name"], family["samples"][0]["labels"], family["samples"][0]["value"]) == ("nebula_test_total", ["x"], 3.0)


async def status_with(nebula, part):
    async def look():
        status = (await nebula.http.get("/admin/v1/status")).json()
        return status if status[part] else None

    return await eventually(look, 5)


async def test_the_status_lists_what_the_store_holds(nebula):
    await nebula.http.put("/admin/v1/models/m", json=TABLE)
    await nebula.store.transact([Put(keys.SCHEDULER_LEADER, b"host:1", await nebula.store.grant(30))])
    status = await status_with(nebula, "scheduler")
    assert [(model["model_uid"], model["state"], model["wanted"]) for model in status["models"]] == [("m", "unplaced", 2)]
    assert status["store"] == {"kind": "embedded", "connected": True, "silent_since": None, "read_at": None, "never_read": []}
    assert (status["scheduler"], status["scheduler_problem"]) == ("host:1", "")


async def test_a_leader_key_that_no_scheduler_wrote_is_shown_as_the_problem_it_is(nebula):
    await nebula.http.put("/admin/v1/models/m", json=TABLE)
    await nebula.store.transact([Put(keys.SCHEDULER_LEADER, b"a note")])
    status = await status_with(nebula, "scheduler_problem")
    assert "holds 'a note' without a lease" in status["scheduler_problem"]
    assert (status["scheduler"], status["models"][0]["reasons"]) == (None, [status["scheduler_problem"]])


PLUGIN = """
from nebula_core import hookimpl

@hookimpl
def nebula_add_routes(app):
    @app.get("/hello")
    def hello():
        return "from a plugin"
"""


@pytest.fixture
def make_plugin(tmp_path):
    """Makes an importable plugin of this source."""
    names = []

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return EntryPoint(name, name, "nebula")

    sys.path.insert(0, str(tmp_path))
    yield make
    sys.path.remove(str(tmp_path))
    for name in names:
        sys.modules.pop(name, None)


async def test_a_plugins_routes_are_behind_the_same_token(serve_admin, make_plugin):
    async with serve_admin(installed=[make_plugin("test_admin_hello", PLUGIN)]) as nebula:
        assert (await nebula.http.get("/hello")).json() == "from a plugin"
        assert (await nebula.http.get("/hello", headers={"authorization": ""})).status_code == 401
        (plugin,) = (await nebula.http.get("/admin/v1/plugins")).json()["plugins"]
        assert (plugin["name"], plugin["provides"]) == ("test_admin_hello", ["nebula_add_routes"])


async def test_a_plugin_that_fails_to_add_routes_is_named(serve_admin, make_plugin):
    broken = PLUGIN.replace("@app.get", "@app.nothing")
    with pytest.raises(PluginError, match='the plugin "test_admin_broken" failed to add its routes'):
        async with serve_admin(installed=[make_plugin("test_admin_broken", broken)]):
            pass


async def test_the_documentation_loads_nothing_from_elsewhere(nebula):
    page = (await nebula.http.get("/docs", headers={"authorization": ""})).text
    assert "https://" not in page
    for asset in ("/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/openapi.json"):
        assert asset in page
        assert (await nebula.http.get(asset, headers={"authorization": ""})).status_code == 200


async def test_the_documentation_describes_the_calls_and_the_token(nebula):
    described = (await nebula.http.get("/openapi.json")).json()
    assert set(described["paths"]["/admin/v1/models/{model_uid}"]) == {"get", "put", "patch", "delete"}
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
