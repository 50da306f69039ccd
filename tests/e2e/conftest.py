from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nebula_core.testing.whole import Nebula


@pytest.fixture
def make_nebula(tmp_path: Path) -> Iterator[Callable[..., Nebula]]:
    made: list[Nebula] = []

    def make(tables: str = "", **options: Any) -> Nebula:
        made.append(Nebula(tmp_path / f"nebula{len(made)}", tables, **options))
        return made[-1]

    yield make
    for nebula in made:
        nebula.close()
