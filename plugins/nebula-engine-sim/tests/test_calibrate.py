"""The calibration finds costs that are known, though some answers were read late."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from nebula_engine_sim.cost import pairs

BENCH = Path(__file__).parent.parent / "bench" / "calibrate.py"
STEP_S, TOKEN_S, PAIR_S = 0.015, 7e-4, 3e-7
BUDGET = 512


def sample(group: str, size: int, *, late: bool = False) -> dict[str, object]:
    """A request as an engine of these costs answers it; a cached one has 40 tokens more, and one read late is there with its last token."""
    cached, computed = (size, 40) if group == "cached" else (0, size)
    first_s = -(-computed // BUDGET) * STEP_S + computed * TOKEN_S + pairs(cached, computed) * PAIR_S
    times = {"first_s": first_s + 7 * STEP_S, "gap_s": 0.0} if late else {"first_s": first_s, "gap_s": STEP_S}
    sent = 60.0 if cached else 0.0
    return {"group": group, "size": size, "sent": sent, "prompt": cached + computed, "cached": cached, "output": 8, "text": "", **times}


def test_known_costs_are_found_and_late_readings_left_out(tmp_path):
    episodes = [[sample("cold", size), sample("cached", size)] for size in (128, 256, 512, 1024, 2048)]
    episodes += [[sample("cold", size, late=True)] for size in (128, 512)]
    kept = tmp_path / "measured.json"
    kept.write_text(json.dumps(episodes))
    command = [sys.executable, BENCH, "--read", kept, "--budget", str(BUDGET), "--sequences", "4", "--block", "128"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    found = dict(re.findall(r"^(\w+) = (\S+)$", said, re.MULTILINE))
    for name, cost in (("step_s", STEP_S), ("prefill_token_s", TOKEN_S), ("prefill_pair_s", PAIR_S)):
        assert abs(float(found[name]) / cost - 1) < 0.05, said
    assert "all at once: 2" in said
    assert re.search(r"^cold +2 .* 0\.\d% +0\.\d%", said, re.MULTILINE), said
