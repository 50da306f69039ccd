"""Metrics pages that engines served, for tests of scrapers: those kept beside a test, and a larger collection elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "NEBULA_TEST_METRICS_PAGES"


def recorded_page(name: str, beside: Path) -> bytes:
    """The page of that name from the folder `beside`, else from the one that `NEBULA_TEST_METRICS_PAGES` names; else skips the test."""
    for folder in (beside, Path(os.environ.get(VARIABLE) or beside)):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    pytest.skip(f"the page {name} is not kept here; set {VARIABLE} to a folder that has it ({beside}/README.md says where it is from)")
