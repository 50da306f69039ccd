"""Waiting in tests for what happens elsewhere: by looking often, with a deadline, never by sleeping long enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], timeout_s: float = 30.0) -> T:
    """What `look` returns once that is true. Raises `AssertionError` with its last value after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = await look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {look}, last {seen!r}")
        await asyncio.sleep(0.02)
