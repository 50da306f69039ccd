"""Who is first among equals."""

from __future__ import annotations


class Turns:
    """Equals take turns, and those of each model by themselves: models that are asked one after the other would take each other's."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def next(self, model_uid: str, count: int) -> int:
        """The position (0 to `count` − 1) to begin with this time; one further than the last time."""
        turn = self._last[model_uid] = (self._last.get(model_uid, -1) + 1) % count
        return turn
