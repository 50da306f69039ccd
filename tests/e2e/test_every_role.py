"""Each role alone serves the admin port: health, metrics, status."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import httpx
import pytest

from nebula_core.roles import Role
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import NEBULA, Nebula, environment


@pytest.fixture
def run_role(make_nebula: Callable[..., Nebula]):
    started = []

    def run(role: str) -> Nebula:
        nebula = make_nebula()
        with nebula.log.open("wb") as log:
            command = [*NEBULA, role, "--settings", str(nebula.settings), "--admin-port", str(nebula.admin_port)]
            environ = {**environment(), "NEBULA_ADMIN__PORT": "1"}  # the option wins
            started.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ))
        return nebula

    yield run
    for process in started:
        process.terminate()
        assert process.wait(30) == 0


def get(nebula: Nebula, path: str) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{nebula.admin_port}{path}", trust_env=False)
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("role", Role)
def test_a_role_alone_is_well_shows_its_metrics_and_answers_the_command_line(run_role, role):
    nebula = run_role(role)
    eventually(lambda: (answer := get(nebula, "/health")) and answer.json() == {"status": "ok"}, 60, nebula.log.read_text)
    assert f'nebula_build_info{{role="{role}"' in get(nebula, "/metrics").text
    assert json.loads(nebula.cli("status", "--json").stdout)["store"]["connected"]
