"""Writing keys and values the way a settings file spells them."""

from __future__ import annotations

import json
import re
from typing import Any


def key(name: str) -> str:
    """A key, quoted if it has to be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def value(content: Any) -> str:
    """A value: text, number, flag, list or inline table."""
    match content:
        case dict():
            return "{ " + ", ".join(f"{key(name)} = {value(inner)}" for name, inner in content.items()) + " }" if content else "{}"
        case list() | tuple():
            return "[" + ", ".join(map(value, content)) + "]"
        case bool() | int() | float():
            return json.dumps(content)
    return _text(str(content))


def _text(content: str) -> str:
    return json.dumps(content, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one character that JSON leaves bare and TOML does not
