"""Models come, go and change while Nebula runs, and stay as they were told to over restarts."""

from __future__ import annotations

import json

import pytest

from nebula_core.testing.waiting import eventually

DECLARED = '[[models]]\nmodel_uid = "declared"\nengine = "llamacpp"\ncontext_tokens = 512\nparallel = 1\n'


@pytest.fixture
def nebula(make_nebula):
    return make_nebula(DECLARED).start()


def names(nebula) -> set[str]:
    return {model["model_uid"] for model in json.loads(nebula.cli("models", "list", "--json").stdout)}


def ready(nebula, model_uid: str) -> int:
    return nebula.model(model_uid)["ready"]


def load(nebula, model_uid: str, *options: str):
    return nebula.cli("models", "load", model_uid, "--engine", "llamacpp", "--set", "context_tokens=512", "--set", "parallel=1", *options)


def test_a_loaded_model_serves_and_survives_a_restart(nebula):
    load(nebula, "org/loaded", "--alias", "other")
    assert {nebula.chat(name).status_code for name in ("org/loaded", "other", "declared")} == {200}
    nebula.stop()
    nebula.start()
    eventually(lambda: nebula.answers("other"), 30)
    assert names(nebula) == {"declared", "org/loaded"}


def test_a_declared_model_that_was_unloaded_stays_so_until_it_is_applied_again(nebula):
    nebula.cli("models", "unload", "declared", "--wait")
    assert nebula.chat("declared").status_code == 404
    assert not [line for line in nebula.processes().values() if "llamacpp" in line]
    nebula.stop()
    nebula.start()
    assert names(nebula) == set()
    assert "nebula apply" in nebula.log.read_text()
    nebula.cli("apply")
    eventually(lambda: nebula.answers("declared"), 30)


def test_scaling_up_and_down_loses_no_request(nebula):
    nebula.cli("models", "scale", "declared", "3")
    eventually(lambda: ready(nebula, "declared") == 3, 60)
    nebula.cli("models", "scale", "declared", "1")
    statuses = set()

    def one_is_left() -> bool:
        statuses.add(nebula.chat("declared").status_code)
        return len(nebula.model("declared")["replicas"]) == 1

    eventually(one_is_left, 60)
    assert statuses == {200}


def test_a_changed_argument_replaces_the_replica_while_it_serves(nebula):
    before = nebula.model("declared")["replicas"][0]["assignment_version"]
    nebula.settings.write_text(nebula.settings.read_text().replace("context_tokens = 512", "context_tokens = 1024"))
    nebula.cli("apply")
    statuses = set()

    def replaced() -> bool:
        statuses.add(nebula.chat("declared").status_code)
        replicas = nebula.model("declared")["replicas"]
        return [replica["state"] for replica in replicas] == ["ready"] and replicas[0]["assignment_version"] != before

    eventually(replaced, 60)
    assert statuses == {200}


def test_a_model_that_does_not_start_says_why(nebula, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    done = nebula.cli("models", "load", "broken", "--engine", "llamacpp", "--source", str(broken), check=False)
    assert done.returncode == 1
    assert "broken.gguf" in done.stderr
    assert nebula.answers("declared")
