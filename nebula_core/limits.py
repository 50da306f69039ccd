"""Limits of the operating system that a serving process should not run into."""

from __future__ import annotations

import resource


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: every connection is a file, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
