"""Waiting in tests that are not asynchronous: by looking often, with a deadline, never by sleeping long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(check: Callable[[], Any], seconds: float, explain: Callable[[], str] = lambda: "it did not come true") -> Any:
    """Wait until `check` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(explain())
        time.sleep(0.05)
