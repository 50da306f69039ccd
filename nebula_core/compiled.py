"""Whether the modules that a request passes through are compiled. The package's `pyproject.toml` names them, `hatch_build.py` does it."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path


def how() -> str:
    """`compiled` or `pure Python`, for an operator to read."""
    spec = find_spec("nebula_core.gateway.data_path.relay")
    return "compiled" if spec is not None and spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)) else "pure Python"


def warning(package: Path = Path(__file__).parent) -> str:
    """What somebody who works on Nebula must hear when it starts; empty if what runs is what the sources say, and for a wheel."""
    changed = outdated(package) if package.with_name("hatch_build.py").exists() else []
    names = ", ".join(str(source.relative_to(package.parent)) for source in changed)
    return f"changed since it was compiled, and runs as it was then: {names}; `make setup` compiles it anew" if names else ""


def outdated(folder: Path) -> list[Path]:
    """Sources below `folder` that were changed or removed since they were compiled in place: what runs is not what they say.

    This holds for a tree under development; the files of an installed wheel are as old as it pleases the installer.
    """
    found = []
    for library in folder.rglob(f"*{EXTENSION_SUFFIXES[0]}"):
        name = library.name.removesuffix(EXTENSION_SUFFIXES[0])
        source = library.with_name(f"{name}.py")
        if not name.endswith("__mypyc") and (not source.exists() or source.stat().st_mtime > library.stat().st_mtime):
            found.append(source)
    return found
