"""What stands on llama.cpp's pages: `/metrics` in Prometheus' text format, without labels; `/slots` and `/props` in JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nebula_core import MetricsReader, ScrapeError

WAITING = "llamacpp:requests_deferred"
RUNNING = "llamacpp:requests_processing"
COMPUTED_TOKENS = "llamacpp:prompt_tokens_total"
CACHED_TOKENS = "llamacpp:prompt_tokens_cached_total"
GENERATED_TOKENS = "llamacpp:tokens_predicted_total"

METRICS = MetricsReader((WAITING, RUNNING, COMPUTED_TOKENS, CACHED_TOKENS, GENERATED_TOKENS), "llama.cpp")


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
