"""Heads that were read before and need not be read again.

A client sends the same head with every request, an engine the same one with every answer of a second, but for the length of what
follows. To see that costs 0.5 us, or 1 us where the head was another connection's; to parse and rewrite it costs 3 us for three fields,
and 7 us for the seventeen of OpenAI's client.

Nothing is taken for known but what the parser has accepted, byte for byte, and only where a message begins. A message is read in this
way only if it is all there, with nothing behind it, and its length is the number that stands in the one place where heads may differ.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Generic, TypeAlias, TypeVar

MOST_BYTES = 4096
"""Largest head that is looked for and kept."""
MOST_HEADS = 256
"""So many are kept. Heads that never come again, because they bear an id or a time, push all others out at a cost of 1 us each."""
MOST_ANSWER_HEADS = 8
"""So many of each engine's answers: they bear the time, so that those of the last second say nothing of the next."""

_ROOM = (1, *(10**digits + digits + 1 for digits in range(1, 10)))
"""From so many bytes on, a body and the digits of its length have one digit more."""

Head = TypeVar("Head")


class KnownHead(Generic[Head]):
    """One head, but for the digits of the length, and what it came to when it was read."""

    __slots__ = ("after", "before", "head")

    def __init__(self, before: bytes, after: bytes, head: Head) -> None:
        self.before, self.after = before, after
        """What stands before and after these digits."""
        self.head = head


KnownHeads: TypeAlias = "dict[bytes, KnownHead[Head]]"
"""By what stands before and after the digits. One for a worker's clients, and one for each of its engines."""


class Recall(Generic[Head]):
    """Knows the heads of one connection, those of others that share `known`, and above all the last one."""

    __slots__ = ("_known", "_last", "_most", "head", "new")

    head: Head
    """What the head that was found last is known to mean."""

    def __init__(self, known: KnownHeads[Head], most: int = MOST_HEADS) -> None:
        self._known, self._most = known, most
        self._last: KnownHead[Head] | None = None
        self.new: tuple[bytes, bytes, bytes] | None = None
        """What is to be learned, if the parser says so: what stands before the digits, these, and what stands after them."""

    def find(self, start: bytes, size: int) -> int:
        """Where the body begins, if what came is one whole message with a known head; else 0.

        `start`: its first `MOST_BYTES`, or all of it if it is shorter; `size`: all its bytes.
        """
        last = self._last
        if last is not None:
            at = len(last.before)
            rest = size - at - len(last.after)
            length = rest - bisect_right(_ROOM, rest)
            body_at = size - length
            if start[at:body_at] == b"%d%b" % (length, last.after) and start.startswith(last.before):
                return body_at
        return self._look_up(start, size)

    def learn(self, data: bytes, length: bytes | None, body: bytes, head: Head) -> None:
        """Remember the new head, if the parser has found in `data` what `sized` has."""
        if self.new is not None and self.new[1] == length and data.endswith(body) and len(body) == int(length):
            before, _, after = self.new
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[before + after] = KnownHead(before, after, head)

    def _look_up(self, start: bytes, size: int) -> int:
        parts = sized(start, size)
        if parts is None:
            return 0
        before, length, after = parts
        known = self._known.get(before + after)
        if known is None:
            self.new = parts
            return 0
        self._last, self.head = known, known.head
        return len(before) + len(length) + len(after)


def sized(start: bytes, size: int) -> tuple[bytes, bytes, bytes] | None:
    """Take the head of a message apart around the digits of its length, if it seems to be one whole message and nothing more.

    `start`, `size`: as for `Recall.find`.
    """
    body_at = start.find(b"\r\n\r\n", 0, MOST_BYTES) + 4
    at = start.find(b"\r\ncontent-length: ", 0, body_at)
    if at < 0:
        at = start.find(b"\r\nContent-Length: ", 0, body_at)
        if at < 0:
            return None
    length = b"%d" % (size - body_at)
    digits_at = at + 18
    digits_end = digits_at + len(length)
    if start[digits_at : digits_end + 1] != length + b"\r":
        return None
    return start[:digits_at], length, start[digits_end:body_at]
