"""What all tests share, the core's and the plugins': current code, programs that start quickly, and properties that may take their time."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from nebula_core.compiled import outdated

settings.register_profile("nebula", deadline=None)  # a busy machine refutes nothing
settings.load_profile("nebula")

_bytecode = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test what is not the code that lies here; and let programs keep their bytecode for the length of this run."""
    _refuse_outdated()
    _write_bytecode(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave none of it behind."""
    if folder := config.stash.get(_bytecode, None):
        shutil.rmtree(folder, ignore_errors=True)  # a program that ends just now may still write there


def _refuse_outdated() -> None:
    root = Path(__file__).parent
    packages = [root / "nebula_core", *root.glob("plugins/*/nebula_*")]
    if found := [str(source.relative_to(root)) for package in packages for source in outdated(package)]:
        raise pytest.UsageError(f"Changed since it was compiled, so that the old one would be tested: {', '.join(found)}. Run: make setup")


def _write_bytecode(config: pytest.Config) -> None:
    """Where Python shall write no bytecode, have it write some outside the tree.

    The tests start hundreds of programs: each would compile all its modules anew, which takes two thirds of its start.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        config.stash[_bytecode] = Path(tempfile.mkdtemp(prefix="nebula-bytecode-"))
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.stash[_bytecode])
