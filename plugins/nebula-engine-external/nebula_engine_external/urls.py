"""Base URLs of engines, in the one form that the rest of Nebula knows: without a trailing slash and without `/v1`."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit


def base_urls(texts: Iterable[str]) -> tuple[str, ...]:
    """All of them in that form. Raises `ValueError` naming one that is no base URL, or is there twice."""
    urls = tuple(base_url(text) for text in texts)
    for url in urls:
        if urls.count(url) > 1:
            raise ValueError(f"{url} is there twice; a replica is one engine")
    return urls


def base_url(text: str) -> str:
    """`HTTP://Host:8000/v1/` → `http://host:8000`. Raises `ValueError` naming the text and what is wrong with it."""
    if text != text.strip() or any(char.isspace() for char in text):
        raise ValueError(f'"{text}" has blanks in it')
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise ValueError(f'"{text}" is not a URL: {error}') from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'"{text}" is not a base URL such as http://10.0.0.5:8000')
    if parts.username or parts.password:
        raise ValueError(f"the URL of {parts.hostname} holds credentials; give a key as `api_key_env` or `api_key`")
    if parts.query or parts.fragment:
        raise ValueError(f'"{text}" goes on after its path; a base URL ends there')
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"
