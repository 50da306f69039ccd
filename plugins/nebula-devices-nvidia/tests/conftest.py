from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")


@pytest.fixture(scope="session")
def nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fake of NVIDIA's library, for LD_LIBRARY_PATH."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc to build the fake NVML with (Debian: apt install gcc libc6-dev)")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", SOURCE], check=True)
    return folder
