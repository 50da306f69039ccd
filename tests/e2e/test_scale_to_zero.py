"""A whole Nebula whose model goes to zero when nobody asks for it, and comes back for whoever does: a real engine, real requests."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

from nebula_core.gateway.kept_table import KeptTable
from nebula_core.testing.waiting import eventually

TABLES = """
[scheduler]
scaler = "load"
scale_s = 0.5
scale_up_pause_s = 1
scale_down_pause_s = 1

[scaler_load]
up_window_s = 1
down_window_s = 2

[[models]]
model_uid = "m"
engine = "llamacpp"
context_tokens = 1024
parallel = 4
threads = 1
min_replicas = 0
max_replicas = 1
"""
ASKED_AT_ONCE = 20


def engines(nebula) -> list[str]:
    return [line for line in nebula.processes().values() if "nebula_engine_llamacpp" in line]


def fall_asleep(nebula) -> None:
    """Wait until no engine is left."""
    eventually(lambda: not engines(nebula), 60, nebula.log.read_text)


def learned_boot_s(nebula) -> float | None:
    """As the gateway knows it."""
    table = KeptTable(nebula.data_dir, logging.getLogger("test")).read()
    return table.models[0].boot_s if table else None


def test_an_idle_model_gives_up_its_engine_and_however_many_ask_wake_it_once(make_nebula):
    nebula = make_nebula(TABLES, workers=2).start()
    fall_asleep(nebula)
    client = OpenAI(base_url=f"{nebula.url}/v1", api_key="any", max_retries=0)
    assert [model.id for model in client.models.list()] == ["m"]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as clients:
        answers = list(clients.map(lambda _: nebula.chat("m"), range(ASKED_AT_ONCE)))
    assert [answer.status_code for answer in answers] == [200] * ASKED_AT_ONCE
    fall_asleep(nebula)
    said = nebula.log.read_text()
    assert (said.count("m: 0 → 1 replicas: a request for it wakes it"), said.count("m: 1 → 0 replicas")) == (1, 2)
    eventually(lambda: nebula.model("m")["replicas"] == [], 20, nebula.log.read_text)


def test_without_a_waiting_room_the_client_is_told_when_to_come_again_and_finds_it_awake(make_nebula):
    nebula = make_nebula(TABLES, gateway="wait_s = 0").start()
    fall_asleep(nebula)
    refused = nebula.chat("m")
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    eventually(lambda: nebula.answers("m"), 30, nebula.log.read_text)
    assert eventually(lambda: learned_boot_s(nebula), 10)  # what the next one is told comes from this
