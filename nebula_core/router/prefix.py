"""A prompt's prefix as a chain of hashes, taken from the bytes of a request: no JSON parse, no tokenizer.

Two requests share their first *n* hashes exactly if they share the first *n* blocks of the prompt, the tools, and the model's name
(a LoRA's, for example). Blocks are fine at the start and grow with the distance from it, so that a prompt of a megabyte costs few.
A prompt is looked for where its path says (`messages`, `prompt`, `input`), and with it what engines put first: the tools, and the
system prompt where that is a field of its own. What else stands before or after does not matter, and a body in which nothing is found
is hashed as it stands: a wrong guess costs a cache hit, never an answer.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate

from xxhash import xxh3_64_intdigest

from nebula_core.router.blocks import PrefixBlocks

_RUNS = ((2, 256), (1, 512), (7, 1024), (4, 2048), (4, 4096), (4, 8192), (4, 16384), (4, 32768), (60, 65536))
"""So many blocks of so many bytes, from the start: up to 0.5, 1, 8, 16, 32, 64, 128, 256 KiB and 4 MiB. What lies beyond is not looked at.

From 4 KiB on a block is at most a quarter of what stands before it, and as much where it can be. Each one costs 0.5 us on the way to a
decision, and what a finer one would tell is within the error of what is believed of caches.
"""
_SIZES = tuple(size for count, size in _RUNS for _ in range(count))
_ENDS = tuple(accumulate(_SIZES))
_SLICES = tuple(slice(end - size, end) for end, size in zip(_ENDS, _SIZES, strict=True))

_NEAR = 4096
_FAR = 65536
"""How far from the start and from the end of a body its fields are looked for, beside the prompt itself."""
_TEXT = 18
"""So many blocks are taken for text; a later one may be part of an image."""
_PROBE = 96
_IMAGE_SHARE = 64
"""An image in a data URL has some thousand bytes for each token, text about four: its bytes count this much less."""

_MESSAGES = b'"messages"'
_TOOLS = b'"tools"'
_KEYS = {"/v1/chat/completions": _MESSAGES, "/v1/completions": b'"prompt"', "/v1/messages": _MESSAGES, "/v1/responses": b'"input"'}
_SYSTEM = {"/v1/messages": b'"system":', "/v1/responses": b'"instructions":'}
"""The field that holds the system prompt, where that is no message."""
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_BACKSLASH = 0x5C
_QUOTES = 4096
"""A system prompt behind the messages may hold so many quotes; another one counts for nothing."""
_NAME = re.compile(rb'"model"\s*:\s*("[^"]*")')


def hash_prefix(path: str, body: bytes, seed: int = 0) -> PrefixBlocks:
    """The prefix of a request's prompt; takes time in proportion to the body, and no more blocks than 90.

    `seed` must be the same wherever hashes are compared; one that clients cannot know keeps them from making hashes collide.
    """
    if len(body) < _SIZES[0]:  # no room for a block: the common short question need not be looked into, which saves 3 us
        return PrefixBlocks((), (), len(body), _is_streamed(body))
    start, end, first = _find(body, _KEYS.get(path) or _key(path), _SYSTEM.get(path))
    around = body[max(0, start - _NEAR) : start] + body[max(end, len(body) - _FAR) :]
    name = _NAME.search(around)
    hashes = _chain(memoryview(body)[start:end], xxh3_64_intdigest((name[1] if name else b"") + first, seed))
    sizes, total = _weigh(body, start, end, len(hashes))
    if first and sizes:
        sizes = (sizes[0] + len(first), *sizes[1:])
    return PrefixBlocks(hashes, sizes, total + len(first), _is_streamed(around))


def _is_streamed(fields: bytes) -> bool:
    return b'"stream"' in fields and _STREAM.search(fields) is not None


def _key(path: str) -> bytes:
    """The field that holds the prompt on this path, if it is none of the usual ones."""
    return next((key for usual, key in _KEYS.items() if path.endswith(usual.removeprefix("/v1"))), b'"input"')


def _find(body: bytes, key: bytes, system: bytes | None) -> tuple[int, int, bytes]:
    """Where the prompt starts and ends in `body`, and what stands behind it although engines put it first: tools, a system prompt.

    A quoted key cannot stand inside a JSON string, for its quotes would be escaped there.
    """
    start = body.find(key, 0, _NEAR)
    if start < 0:
        start = body.find(key, _NEAR - len(key), _ENDS[-1])
    if start < 0:
        return 0, len(body), b""
    if system is not None:
        return _with_system(body, start, system)
    if key != _MESSAGES:
        return start, len(body), b""
    return _with_tools(body, start, len(body))


def _with_system(body: bytes, start: int, system: bytes) -> tuple[int, int, bytes]:
    """The same for a prompt that begins at `start` and whose system prompt is a field of its own."""
    before = body.find(system, 0, start)
    if before >= 0:
        first, end, behind = _with_tools(body, start, len(body))
        return min(first, before), end, behind
    at = body.rfind(system, max(start, len(body) - _FAR))
    stop = _value_end(body, at + len(system)) if at >= 0 else -1
    if stop < 0:
        return _with_tools(body, start, len(body))
    tools = body.find(_TOOLS, stop)
    if tools >= 0:
        return start, _end(body, start, at), body[at:stop] + body[tools : _end(body, tools, len(body))]
    first, end, behind = _with_tools(body, start, at)
    return first, end, body[at:stop] + behind


def _value_end(body: bytes, at: int) -> int:
    """The end of a string, or list of objects, that stands behind all messages; -1 if it is neither, or stands in one of them."""
    if body[at : at + 1] == b" ":
        at += 1
    tools = body.find(_TOOLS, at)
    stop = len(body) if tools < 0 else tools
    if body[at : at + 1] == b"[":
        return _end(body, at, stop)
    if body[at : at + 1] != b'"':
        return -1
    for _ in range(_QUOTES):
        at = body.find(b'"', at + 1)
        if at < 0:
            return -1
        slashes = at
        while body[slashes - 1] == _BACKSLASH:
            slashes -= 1
        if (at - slashes) % 2 == 0:
            return at + 1 if body.find(b"}]", at, stop) < 0 else -1
    return -1


def _with_tools(body: bytes, start: int, stop: int) -> tuple[int, int, bytes]:
    """The same for a prompt that begins at `start`; what there is of tools stands before `stop`."""
    before = body.find(_TOOLS, 0, start)
    if before >= 0:
        return before, _end(body, before, stop), b""
    end = _end(body, start, stop)
    if body[end - 3 : end - 1] == b'"}' or body[end - 3 : end - 1] == b"]}":
        return start, end, b""  # a message ends so; a tool is an object in an object
    tools = body.rfind(_TOOLS, max(start, stop - _FAR), stop)
    return (start, end, b"") if tools < 0 else (start, _end(body, start, tools), body[tools:end])


def _end(body: bytes, start: int, stop: int) -> int:
    """The end of the last list of objects between two places, if it stands out; else the second of them."""
    found = body.rfind(b"}]", max(start, stop - _FAR), stop)
    return stop if found < 0 else found + 2


def _chain(prompt: memoryview, link: int) -> tuple[int, ...]:
    """Each whole block's hash, seeded with the one before: a call for each costs a quarter less than going on with one hash."""
    hashes = []
    for block in _SLICES[: bisect_right(_ENDS, len(prompt))]:
        link = xxh3_64_intdigest(prompt[block], link)
        hashes.append(link)
    return tuple(hashes)


def _weigh(body: bytes, start: int, end: int, count: int) -> tuple[tuple[int, ...], int]:
    """The first `count` blocks' sizes and the prompt's, those parts reduced that look like an image."""
    if count <= _TEXT:
        return _SIZES[:count], end - start
    sizes = list(_SIZES[:count])
    for i in range(_TEXT, count):
        at = start + _ENDS[i] - sizes[i]
        if b" " not in body[at : at + _PROBE] and _is_image(body[at : at + _PROBE]):
            sizes[i] //= _IMAGE_SHARE
    rest = end - start - _ENDS[count - 1]
    if rest > _PROBE and _is_image(body[end - rest : end - rest + _PROBE]):
        rest //= _IMAGE_SHARE
    return tuple(sizes), sum(sizes) + rest


def _is_image(probe: bytes) -> bool:
    """Base64 has none of what separates words, numbers or fields, or begins an escape."""
    return probe.isascii() and not (b" " in probe or b"\\" in probe or b"," in probe or b'"' in probe)
