"""What a connection needs of the event loop: uvloop's transports are no subclasses of asyncio's, whatever its types say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Transport(Protocol):
    """The part of `asyncio.Transport` that the data path uses. What it does is said there."""

    def write(self, data: bytes, /) -> None: ...  # noqa: D102
    def writelines(self, parts: Sequence[bytes], /) -> None: ...  # noqa: D102
    def write_eof(self) -> None: ...  # noqa: D102
    def set_write_buffer_limits(self, *, high: int) -> None: ...  # noqa: D102
    def get_write_buffer_size(self) -> int: ...  # noqa: D102
    def pause_reading(self) -> None: ...  # noqa: D102
    def resume_reading(self) -> None: ...  # noqa: D102
    def get_extra_info(self, name: str, /) -> Any: ...  # noqa: D102
    def is_closing(self) -> bool: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def abort(self) -> None: ...  # noqa: D102
