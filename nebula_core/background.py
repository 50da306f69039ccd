"""Tasks that run beside a body of code and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run coroutines beside the body, and cancel them at its end. If one fails, the body is cancelled and an exception group raised.

    Unlike with a bare task group, an error of the body itself leaves as it is and not in a group.
    """
    group = asyncio.TaskGroup()
    await group.__aenter__()
    tasks = [group.create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await group.__aexit__(None, None, None)
