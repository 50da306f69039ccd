"""Plugins that a test makes up and a running Nebula finds, as if they had been installed."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, source: str, name: str = "lab") -> Path:
    """Write a plugin with this source and name into `folder`, which is made where it is missing, and return the folder.

    `Nebula(…, python_path=folder)` finds it there; so does any Python that is started with the folder on its path.
    """
    info = folder / f"nebula_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"nebula_{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nebula-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[nebula]\n{name} = nebula_{name}\n")
    return folder
