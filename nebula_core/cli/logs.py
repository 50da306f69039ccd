"""Logging of a serving process: on standard error, and above the live display where that shares the terminal."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure(level: str, console: Console) -> None:
    """Log from `level` upwards; `console` is what the progress of the start is shown on."""
    logging.basicConfig(level=level.upper(), handlers=[_handler(console)], force=True)
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def _handler(console: Console) -> logging.Handler:
    if not (console.is_terminal and sys.stderr.isatty()):
        handler: logging.Handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        return handler
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_path=False, markup=False, log_time_format="%H:%M:%S")
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    return handler
