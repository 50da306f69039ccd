"""Token counts, read from the last bytes of an answer: the `usage` that engines send at its end."""

from __future__ import annotations

import re

TAIL_BYTES = 4096
"""How much of a piece is kept to look for `usage` in."""
TAIL_PIECES = 4
"""How many of the last pieces: the usage, the end marker, and room for a usage that was torn apart."""

_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,15})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,15})')


def read_usage(tail: bytes) -> tuple[int | None, int | None]:
    """Prompt and completion tokens of the last `usage` in `tail`; `None` where it does not say."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None, None
    prompt, completion = _PROMPT.search(tail, start), _COMPLETION.search(tail, start)
    return int(prompt[1]) if prompt else None, int(completion[1]) if completion else None
