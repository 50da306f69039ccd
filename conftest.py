"""Holds for all tests: they do not run on compiled modules that are older than their sources."""

from pathlib import Path

import pytest

from nebula_core.compiled import outdated


def pytest_configure() -> None:
    """Refuse to begin."""
    root = Path(__file__).parent
    packages = [root / "nebula_core", *root.glob("plugins/*/nebula_*")]
    if found := [str(source.relative_to(root)) for package in packages for source in outdated(package)]:
        raise pytest.UsageError(f"Changed since it was compiled, so that the old one would be tested: {', '.join(found)}. Run: make setup")
