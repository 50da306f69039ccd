"""Saying once that the store is away, and once that it is back, however often it was asked in between."""

from __future__ import annotations

import logging

from nebula_core.errors import StoreUnavailable


class Outage:
    """What a scheduler knows of its store's silence."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lasts = False

    def note(self, error: StoreUnavailable) -> None:
        """The store did not answer."""
        if not self._lasts:
            self._logger.warning("the scheduler decides nothing until the store answers: %s", error)
        self._lasts = True

    def end(self) -> None:
        """The store did what was asked of it."""
        if self._lasts:
            self._logger.info("the store answers the scheduler again")
        self._lasts = False
