"""What is printed of a soak."""

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parent.parent / "bench" / "soak.py"


def test_a_soak_tells_how_the_index_fills_up_to_its_bound():
    command = [
        sys.executable,
        SOAK,
        "--decisions",
        "2000",
        "--rows",
        "4",
        "--replicas",
        "4",
        "--kv-tokens",
        "20000000",
        "--max-blocks",
        "2000",
    ]
    _, _, *rows = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    blocks = [int(row.split()[2]) for row in rows]
    assert len(rows) == 4
    assert 1500 < min(blocks) <= max(blocks) <= 2000
