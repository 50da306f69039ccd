from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nebula_core.testing.whole import Nebula

FAKE_ENGINES = """
from nebula_core import Provider, hookimpl
from nebula_core.testing.engines import FakeEngine, FakeScraper

@hookimpl
def nebula_register_engines():
    return [Provider(name="fake", build=lambda context, settings: FakeEngine())]

@hookimpl
def nebula_register_scrapers():
    return [Provider(name="fake", build=lambda context, settings: FakeScraper())]
"""


@pytest.fixture
def make_nebula(tmp_path: Path) -> Iterator[Callable[..., Nebula]]:
    made: list[Nebula] = []

    def make(tables: str = "", **options: Any) -> Nebula:
        made.append(Nebula(tmp_path / f"nebula{len(made)}", tables, **options))
        return made[-1]

    yield make
    for nebula in made:
        nebula.close()


@pytest.fixture
def fake_engines(tmp_path: Path) -> Path:
    """A folder for `python_path` with a plugin that brings the test kit's engine `fake`, which is up in no time."""
    folder = tmp_path / "plugins"
    info = folder / "nebula_lab-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "nebula_lab.py").write_text(FAKE_ENGINES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nebula-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nebula]\nlab = nebula_lab\n")
    return folder
