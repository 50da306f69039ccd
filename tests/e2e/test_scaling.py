"""A whole Nebula whose model follows its load: simulated engines, real requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from nebula_core.testing.waiting import eventually

TABLES = """
[scheduler]
scaler = "load"
scale_s = 0.5
scale_up_pause_s = 1
scale_down_pause_s = 1

[scaler_load]
queue = 2
up_window_s = 1
down_window_s = 2

[[models]]
model_uid = "sim"
engine = "sim"
max_replicas = 2
max_sequences = 1
max_batched_tokens = 64
"""


def test_load_brings_a_replica_and_silence_takes_it_away(make_nebula):
    nebula = make_nebula(TABLES).start()
    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(nebula.chat, "sim", max_tokens=16) for _ in range(48)]
        eventually(lambda: "sim: 1 → 2 replicas: " in nebula.log.read_text(), 30, nebula.log.read_text)
        assert "requests waiting per replica" in nebula.log.read_text()
        assert {answer.result().status_code for answer in answers} == {200}
    eventually(lambda: "sim: 2 → 1 replicas: nothing has waited for 2 s" in nebula.log.read_text(), 30, nebula.log.read_text)
    eventually(lambda: len(nebula.model("sim")["replicas"]) == 1, 30)
