"""`Limits`: what bounds the data path. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that protect the gateway and that no setting changes."""

    head_bytes: int = 64 * 1024
    """Largest request line and header fields."""
    head_s: float = 30.0
    """Longest time for a request's head to arrive, from its first byte."""
    first_request_s: float = 1.0
    """How long a drain waits for the first request of a client that has just connected: it cannot know that it comes too late."""
    ahead_bytes: int = 64 * 1024
    """What is read of a client's further requests while one is being answered."""
    hold_bytes: int = 16 * 1024
    """Comments of a stream that are held back with its head, before the first event."""
    hold_s: float = 30.0
    """Longest time that they are held back: proxies in front may need to see that something lives."""
    linger_bytes: int = 16 * 1024 * 1024
    """What is read and dropped after a refusal, so that a client still sending gets to read it."""
    linger_s: float = 5.0
    write_high_bytes: int = 16 * 1024
    """Bytes waiting for a slow client above which its engine is not read from."""
    unsent_bytes: int = 16 * 1024
    """Bytes that the kernel takes for a client beyond what is on its way to it; without a bound up to 4 MiB for one that has stalled."""
    unread_bytes: int = 32 * 1024
    """Bytes that the kernel takes from an engine whose client has stalled; without a bound they were 900 KiB per stream, measured."""
    idle_engine_connections: int = 512
    """Idle connections kept per engine."""
    idle_engine_s: float = 4.0
    """How long they are kept: less than the 5 s after which uvicorn, under vLLM and SGLang, closes its end."""
