"""What keeps a benchmark from running."""

from __future__ import annotations


class MissingError(Exception):
    """A program or package that is needed is not here; the message says what brings it."""


class GatewayError(Exception):
    """A gateway did not come up, or went; the message holds the end of its log."""
