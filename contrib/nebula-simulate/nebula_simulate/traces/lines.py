"""Lines of a file, compressed or not, or of all files in an archive, and how a broken one is told."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TypeVar

import msgspec
import zstandard

from nebula_simulate.errors import TraceError

Row = TypeVar("Row")
BOM = b"\xef\xbb\xbf"
"""What some programs begin a file of UTF-8 with."""


def parsed(path: Path, parse: Callable[[bytes], Row | None]) -> Iterator[Row]:
    """What `parse` makes of each line; `None` leaves a line out. Raises `TraceError`, naming the line that it cannot parse."""
    number, name, empty = 0, f"{path}", True
    try:
        for member, lines in _files(path):
            name = f"{path}, {member}" if member else name
            number = 0
            for line in lines:
                number += 1
                line = line.removeprefix(BOM) if number == 1 else line
                if not line.strip():
                    continue
                empty, row = False, parse(line)
                if row is not None:
                    yield row
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except (zstandard.ZstdError, tarfile.TarError) as error:
        raise TraceError(f"{name}, after line {number}: not a whole {''.join(path.suffixes[-2:])} file: {error}") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise TraceError(f"{name}, line {number}: {error}") from error
    except RecursionError as error:
        raise TraceError(f"{name}, line {number}: nested too deeply") from error
    if empty:
        raise TraceError(f"{path}: the file is empty")


def _files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The file, without a name, or those in a .tar.zst, which is never unpacked as a whole."""
    with ExitStack() as opened:
        file: IO[bytes] = opened.enter_context(path.open("rb"))
        if path.suffix == ".zst":
            stream = opened.enter_context(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            file = opened.enter_context(io.BufferedReader(stream, 1 << 20))
        if path.suffixes[-2:] != [".tar", ".zst"]:
            yield "", file
            return
        archive = opened.enter_context(tarfile.open(fileobj=file, mode="r|"))
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                yield member.name, content
