"""How long a test goes on that does the same harm again and again."""

from __future__ import annotations

import os


def rounds(usual: int, long: int) -> int:
    """`usual`, or `long` if the environment has `TEST_LONG`: a fault that only chance brings about shows in many rounds."""
    return long if os.environ.get("TEST_LONG") else usual
