"""What stands on llama.cpp's pages: `/metrics` in Prometheus' text format, `/slots` and `/props` in JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from nebula_core import ScrapeError

PREFIX = b"llamacpp:"


class Slot(msgspec.Struct, frozen=True):
    """One of the places where requests are computed; each has its own part of the KV cache."""

    n_ctx: int
    """Tokens that it has room for."""
    is_processing: bool
    n_prompt_tokens: int | None = None
    """Tokens that it holds now: of the prompt those computed so far, and all that were generated. Missing before its first request."""


class _Generation(msgspec.Struct, frozen=True):
    n_ctx: int


class Props(msgspec.Struct, frozen=True):
    """How the server was set up."""

    total_slots: int
    default_generation_settings: _Generation

    @property
    def capacity_tokens(self) -> int:
        """Tokens that all slots together have room for."""
        return self.total_slots * self.default_generation_settings.n_ctx


_slots = msgspec.json.Decoder(list[Slot])
_props = msgspec.json.Decoder(Props)


def read_metrics(page: bytes) -> dict[str, float]:
    """Name without `llamacpp:` → value. Its metrics have no labels. Raises `ScrapeError` if there are none or one has no value."""
    metrics = {}
    for line in page.splitlines():
        if not line.startswith(PREFIX):
            continue
        name, _, value = line.removeprefix(PREFIX).partition(b" ")
        try:
            metrics[name.decode()] = _number(value)
        except ValueError as error:
            raise ScrapeError(f"/metrics has the line {line[:80]!r}, which is not a name and a value") from error
    if not metrics:
        raise ScrapeError(f"/metrics is not llama.cpp's page: no line starts with {PREFIX.decode()} (it begins {page[:40]!r})")
    return metrics


def read_slots(page: bytes) -> Sequence[Slot]:
    """All slots. Raises `ScrapeError`."""
    try:
        return _slots.decode(page)
    except msgspec.MsgspecError as error:
        raise ScrapeError(f"/slots is not llama.cpp's page: {error}") from error


def read_props(page: bytes) -> Props:
    """How the server was set up. Raises `ScrapeError`."""
    try:
        return _props.decode(page)
    except msgspec.MsgspecError as error:
        raise ScrapeError(f"/props is not llama.cpp's page: {error}") from error


def _number(text: bytes) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is not a count")
    return value
