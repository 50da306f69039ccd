"""What roles, options and limits come to in the processes that run."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nebula_core.testing.made_up import install
from nebula_core.testing.waiting import eventually

SMALL = '[[models]]\nmodel_uid = "m"\nengine = "llamacpp"\ncontext_tokens = 512\nparallel = 1\n'
BROKEN_ENGINE = """
from nebula_core import Engine, Provider, hookimpl
from nebula_core.testing.engines import FakeEngine

class Broken(FakeEngine):
    def check(self, spec):
        raise KeyError("a bug in a plugin")

@hookimpl
def nebula_register_engines():
    return [Provider(name="broken", build=lambda context, settings: Broken())]
"""


@pytest.fixture
def few_files() -> Iterator[int]:
    """A soft limit on open files as low as many systems set it, for what is started meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def engines(nebula) -> list[int]:
    return sorted(pid for pid, line in nebula.processes().items() if "nebula_engine_llamacpp" in line and "shim" not in line)


def workers(nebula) -> list[int]:
    return [pid for pid, line in nebula.processes().items() if "gateway.worker" in line]


def soft_file_limit(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files")]
    return int(line.split()[3])


def test_a_node_alone_adopts_engines_and_leaves_them_running_when_it_stops(make_nebula):
    """On the embedded store one process at a time can run: the plan comes from a `nebula up` that was killed."""
    nebula = make_nebula(SMALL).start()
    before = engines(nebula)
    nebula.kill()
    nebula.start(role="node")
    assert nebula.stop() == 0
    assert engines(nebula) == before
    nebula.start()
    assert engines(nebula) == before
    assert nebula.answers("m")


@pytest.mark.parametrize("role", ["gateway", "scheduler", "node"])
def test_a_role_beside_another_process_on_the_embedded_store_is_sent_to_etcd(make_nebula, role):
    first, second = make_nebula().start(role=role), make_nebula()
    second.settings.write_text(second.settings.read_text().replace(str(second.data_dir), str(first.data_dir)))
    second.start(role="scheduler" if role == "gateway" else "gateway", wait=False)
    assert second.process.wait(60) == 1
    log = second.log.read_text()
    assert "etcd" in log
    assert str(first.process.pid) in log
    assert "Traceback" not in log
    assert first.stop() == 0


def test_the_routing_strategy_may_be_named_on_the_command_line(make_nebula):
    nebula = make_nebula('[router]\nstrategy = "nonsense"\n').start("--routing-strategy", "least_pending")
    token = (nebula.data_dir / "admin.token").read_text().strip()
    url = f"http://127.0.0.1:{nebula.admin_port}/admin/v1/settings"
    settings = httpx.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False).json()
    assert settings["router"]["strategy"] == "least_pending"


def test_control_process_and_workers_may_open_as_many_files_as_the_system_lets_them(make_nebula, few_files):
    nebula = make_nebula(workers=2).start()
    assert {soft_file_limit(pid) for pid in (nebula.process.pid, *workers(nebula))} == {few_files}


def test_an_engine_plugin_that_fails_to_check_a_model_is_named(make_nebula, tmp_path):
    plugins = install(tmp_path / "plugins", BROKEN_ENGINE)
    nebula = make_nebula('[[models]]\nmodel_uid = "m"\nengine = "broken"\n', python_path=plugins).start(wait=False)
    assert nebula.process.wait(60) == 1
    log = " ".join(nebula.log.read_text().split())
    assert "Traceback" not in log
    assert 'the engine "broken" failed to check the model "m": KeyError' in log
    assert 'disabled = ["lab"]' in log


def test_no_client_notices_that_the_control_process_is_killed_and_started_again(make_nebula):
    nebula = make_nebula(workers=2).start()
    answered, failed, stopped = [], [], threading.Event()

    def ask() -> None:
        while not stopped.wait(0.02):
            try:
                answered.append(nebula.get("/v1/models").raise_for_status())
            except httpx.HTTPError as error:
                failed.append(error)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            before = workers(nebula)
            nebula.kill()
            nebula.start()
            eventually(lambda: not set(before) & set(workers(nebula)), 30)  # noqa: B023
    finally:
        stopped.set()
        for client in clients:
            client.join()
    assert failed == []
    assert answered
