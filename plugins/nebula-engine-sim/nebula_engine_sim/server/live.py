"""`LiveEngine`: real time drives an engine that knows only virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import isinf

from nebula_engine_sim.faults import Timeline
from nebula_engine_sim.job import Happening, Job
from nebula_engine_sim.sim_engine import SimEngine

Tell = Callable[[Happening], None]
MAX_SLEEP_S = 3600.0
"""A timer is set for no longer, and set again then."""


class LiveEngine:
    """Sets a timer for the engine's next step and tells each request what happened to it.

    A late timer delays what is told, not the engine's own clock. While a `hang` is in force the engine's clock stands still.
    """

    def __init__(self, engine: SimEngine, timeline: Timeline, time_scale: float) -> None:
        self.engine = engine
        self.timeline = timeline
        self._scale = time_scale
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._tell: dict[str, Tell] = {}
        self._later: set[asyncio.TimerHandle] = set()

    def elapsed(self) -> float:
        """Seconds of the timeline."""
        return (self._loop.time() - self._began) * self._scale

    def now(self) -> float:
        """Seconds that the engine has been computing or idle."""
        elapsed = self.elapsed()
        return elapsed - self.timeline.hung_s(elapsed)

    def real_s(self, seconds: float) -> float:
        """Real seconds that so many of the timeline take."""
        return seconds / self._scale

    def later(self, at: float, act: Callable[[], None]) -> None:
        """Do something at a time of the timeline."""

        def fire() -> None:
            self._later.discard(timer)
            act()

        timer = self._loop.call_later(max(0.0, self.real_s(at - self.elapsed())), fire)
        self._later.add(timer)

    def submit(self, job: Job, tell: Tell) -> None:
        """Compute a request whose prompt and answer fit into the KV cache."""
        self.engine.submit(job, self.now())
        self._tell[job.request_id] = tell
        self._set_timer()

    def abort(self, request_id: str) -> None:
        """Nobody wants it any more."""
        if self._tell.pop(request_id, None):
            self.engine.abort(request_id, self.now())
            self._set_timer()

    def close(self) -> None:
        """Nothing more will happen."""
        self._tell.clear()
        for timer in (*self._later, *([self._timer] if self._timer else [])):
            timer.cancel()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        at = self.engine.next_at()
        if at is None:
            self._timer = None
            return
        elapsed = self.elapsed()
        hang = self.timeline.now("hang", elapsed)
        wait_s = max(0.0, at - self.now()) if hang is None else hang.ends_s - elapsed
        delay = MAX_SLEEP_S if isinf(wait_s) else min(self.real_s(wait_s), MAX_SLEEP_S)
        self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        for happening in self.engine.advance(self.now()):
            tell = self._tell.get(happening.request_id)
            if happening.kind == "finished":
                self._tell.pop(happening.request_id, None)
            if tell:
                tell(happening)
        self._set_timer()
