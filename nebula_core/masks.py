"""Hiding secrets in what is shown: by the name of the key, by the file they come from, and passwords within addresses."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

MASK: Final = "********"
_NAMES: Final = re.compile(r"(^|_)(api_?keys?|keys?|tokens?|secrets?|passwords?|passphrases?|credentials?|authorization)$", re.IGNORECASE)
_COUNTS: Final = re.compile(
    r"(^|_)((max|min|num|kv)(_\w+)?|after|answer|batch|block|context|output|prefill|prompt)_tokens$|_per_token$", re.IGNORECASE
)
"""A number under such a name counts tokens of text. Any other under a name of a secret is masked: a password may have digits only."""
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def mask(value: Any, secrets: frozenset[str], name: str = "") -> Any:
    """`value` with every secret in it replaced; `secrets` are texts that are secret wherever they stand."""
    if isinstance(value, dict):
        return {key: mask(inner, secrets, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask(inner, secrets, name) for inner in value]
    if _is_secret(value, name) or (value and value in secrets):
        return MASK
    return _USERINFO.sub(MASK, value) if isinstance(value, str) else value


def shown(value: Any, path: Iterable[int | str]) -> str:
    """How a message shows the wrong value at `path`, a key within tables and lists: not at all where the key names a secret."""
    name = next((part for part in reversed(tuple(path)) if isinstance(part, str)), "")
    return MASK if _is_secret(value, name) else repr(mask(value, frozenset()))


def _is_secret(value: Any, name: str) -> bool:
    """Whether a value of this name is not to be seen; what is not set, or only yes or no, hides nothing."""
    if value is None or value == "" or isinstance(value, bool) or not _NAMES.search(name):
        return False
    return not (isinstance(value, int | float) and _COUNTS.search(name))


def secrets_in(files: Iterable[Path]) -> frozenset[str]:
    """Every text in those of `files` that hold secrets."""
    return frozenset(text for file in files if file.name == ".secrets.toml" for text in _texts(tomllib.loads(file.read_text())))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
