"""The admin token: made at first start, kept in a file that only its owner can read, found there by the command line."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from nebula_core import files
from nebula_core.errors import AdminError


def path(data_dir: Path) -> Path:
    """Where the token lies."""
    return data_dir / "admin.token"


def ensure(data_dir: Path) -> str:
    """The token, made first if there is none. Raises `AdminError` if it cannot be written or is not private."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path(data_dir).exists():
            files.create(path(data_dir), f"{secrets.token_urlsafe(32)}\n".encode())
    except OSError as error:
        raise AdminError(f"the admin token {path(data_dir)} cannot be written: {error.strerror}") from error
    return read(data_dir)


def read(data_dir: Path) -> str:
    """The token that is there. Raises `AdminError` if there is none, or if others can read it."""
    file = path(data_dir)
    try:
        with file.open(encoding="ascii") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            token = opened.read().strip()
    except FileNotFoundError as error:
        raise AdminError(
            f"there is no admin token {file}: no Nebula was started with this data folder; start one with `nebula up`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise AdminError(f"the admin token {file} cannot be read: {error}") from error
    if mode & 0o077:
        raise AdminError(f"others can read the admin token {file}: delete it and restart Nebula, which makes a new one")
    if not token:
        raise AdminError(f"the admin token {file} is empty: delete it and restart Nebula, which makes a new one")
    return token
