"""The engine plugin: what it launches, the program that it launches, and a fleet of it."""

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from nebula_engine_sim import nebula_register_engines

from nebula_core import Context, InvalidModelRequest, LaunchError, ModelRequest, PluginSettings
from nebula_core.testing.engine import EngineContract, free_address, started, until_ready
from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula


def build():
    [provider] = nebula_register_engines()
    return provider.build(Context(logger=logging.getLogger("test")), PluginSettings())


def request(replicas=1, aliases=(), **engine_args):
    return ModelRequest(model_uid="sim/one", engine="sim", aliases=aliases, replicas=replicas, engine_args=engine_args)


class TestSimulatedEngine(EngineContract):
    def make_engine(self):
        return build()

    def make_request(self):
        return request(replicas=2, aliases=("sql",), kv_blocks=4000, loras=["sql"], faults=[{"kind": "crash", "at_s": 60}])


@pytest.mark.parametrize("wrong", [{"kind": "magic"}, {"kv_blocks": 0}, {"faults": [{"kind": "quake"}]}, {"time_scale": 0}])
def test_a_wrong_key_is_refused_with_the_models_name(wrong):
    with pytest.raises(InvalidModelRequest, match=f"sim/one.*{next(iter(wrong))}"):
        build().specs(request(**wrong))


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(InvalidModelRequest, match=r"sim/one.*room for at least one sequence"):
        build().specs(request(max_batched_tokens=8))


def test_a_lora_that_no_client_can_ask_for_is_refused():
    with pytest.raises(InvalidModelRequest, match=r"sim/one.*loras: clients cannot ask for law, sql until aliases"):
        build().specs(request(aliases=("one",), loras=["sql", "law"]))


def test_a_missing_file_of_faults_is_named(tmp_path):
    engine = build()
    [spec] = engine.specs(request(faults=str(tmp_path / "gone.toml")))
    with pytest.raises(LaunchError, match=r"sim/one.*gone\.toml"):
        engine.check(spec)


async def run(tmp_path, **engine_args):
    """Its program's exit code and log, when it has ended by itself."""
    engine, address = build(), free_address()
    [spec] = engine.specs(request(**engine_args))
    async with started(engine.launch(spec, address, ()), address, tmp_path / "log") as running:
        code = await asyncio.wait_for(running.process.wait(), 30)
        return code, running.log.read_text()


async def test_it_serves_until_sigterm(tmp_path):
    engine, address = build(), free_address()
    [spec] = engine.specs(request(aliases=("sql",), loras=["sql"], faults=[{"kind": "errors", "at_s": 1e6}]))
    async with started(engine.launch(spec, address, ()), address, tmp_path / "log") as running:
        await until_ready(running)
        models = (await running.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["sim/one", "sql"]
        assert (await running.http.get("/v1/models", headers={"Authorization": "Bearer other"})).status_code == 401
        assert await running.end(signal.SIGTERM) == 0


async def test_a_crash_on_the_timeline_ends_the_process_with_its_code(tmp_path):
    code, log = await run(tmp_path, faults=[{"kind": "crash", "at_s": 0.1, "code": 7}])
    assert code == 7
    assert log.splitlines()[-1].endswith("crashes, as its timeline says")


async def test_a_port_in_use_ends_it_with_the_reason(tmp_path):
    engine, address = build(), free_address()
    [spec] = engine.specs(request())
    with socket.create_server((address.host, address.port)):
        async with started(engine.launch(spec, address, ()), address, tmp_path / "log") as running:
            assert await asyncio.wait_for(running.process.wait(), 30) == 1
            log = running.log.read_text()
    assert f"cannot listen on {address.host}, port {address.port}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--port", "70000"], "--port has to be between 1 and 65535, got 70000"),
        (["--port", "0"], "--port has to be between 1 and 65535, got 0"),
        (["--port", "65535", "--count", "2"], "--count 2 from --port 65535 on needs ports up to 65536; the last one is 65535"),
        (["--count", "0"], "--count has to be at least 1, got 0"),
        (["--count", "-1"], "--count has to be at least 1, got -1"),
    ],
)
def test_replicas_without_a_port_are_refused(options, wrong):
    command = [sys.executable, "-m", "nebula_engine_sim", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (2, f"{wrong}\n")


NAMES = """
[[models]]
model_uid = "sim/one"
aliases = ["one"]
engine = "sim"
time_scale = 20

[[models]]
model_uid = "sim/two"
aliases = ["two", "sql"]
engine = "sim"
loras = ["sql"]
time_scale = 20
"""


def test_every_name_that_a_client_may_ask_for_is_answered(tmp_path):
    nebula = Nebula(tmp_path, NAMES)
    try:
        nebula.start()
        answered = {name: nebula.chat(name, max_tokens=1).json()["model"] for name in ("sim/one", "one", "sim/two", "two", "sql")}
    finally:
        nebula.close()
    assert answered == {"sim/one": "sim/one", "one": "sim/one", "sim/two": "sim/two", "two": "sim/two", "sql": "sql"}


FLEET = """
[[models]]
model_uid = "sim/fleet"
engine = "sim"
replicas = 2
time_scale = 20
"""


def test_a_fleet_shares_prefixes_and_tells_its_load(tmp_path):
    nebula = Nebula(tmp_path, FLEET)
    try:
        nebula.start()
        topics = [f"{number} is the number of this conversation. " * 40 for number in range(6)]

        def ask(topic):
            return nebula.chat("sim/fleet", messages=[{"role": "user", "content": topic}]).json()["usage"]

        with ThreadPoolExecutor(6) as pool:
            cold, warm = list(pool.map(ask, topics)), list(pool.map(ask, topics))
        hits = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in warm)
        assert sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in cold) == 0
        assert hits > 0
        eventually(lambda: totals(nebula) == (hits, 12 * 8), 20, lambda: f"{totals(nebula)} of {hits} and 96")
        assert {stats["kv_capacity_tokens"] for stats in scraped(nebula)} == {409_600}
    finally:
        nebula.close()


def scraped(nebula):
    return [replica["stats"] for replica in nebula.model("sim/fleet")["replicas"] if replica.get("stats")]


def totals(nebula):
    """Cached and generated tokens, as the fleet's stats tell."""
    stats = scraped(nebula)
    return tuple(sum(one[key] or 0 for one in stats) for key in ("cached_tokens_total", "generated_tokens_total"))
