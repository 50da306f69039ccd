"""Compiles the modules that a package names in its `pyproject.toml`, with mypyc, when it is built or installed.

They stay plain Python, and run as that where they cannot be compiled: without a C compiler or Python's headers, or if
`NEBULA_PURE_PYTHON=1` says so. Own code and not `hatch-mypyc`, because that moves `pyproject.toml` away while it works: a build that is
killed leaves a broken tree, and two at once break each other.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

REQUIREMENT = "mypy[mypyc]>=1.18"
MYPY = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary")
"""The libraries that a package needs at run time are not there when it is built: what comes from them has no type then."""


class Compile(BuildHookInterface[Any]):
    """`modules`: what is compiled, relative to the package's folder. `types`: a folder with packages that they import, if it is there."""

    scratch: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What must be there at build time, beside what `pyproject.toml` says."""
        return [] if obstacle() else [REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the results beside their sources: in the tree if the install is editable, else in the wheel."""
        modules = self.config["modules"]
        if version == "editable":
            self.clean([version])
        if why := obstacle():
            self.app.display_warning(f"{self.metadata.name} runs as pure Python: {why}.")
            return
        editable = version == "editable"
        self.scratch = tempfile.TemporaryDirectory(prefix="nebula-compile-")  # the tree may be somebody else's, or built from twice at once
        built = Path(self.root, "build", "mypyc", sys.implementation.cache_tag) if editable else Path(self.scratch.name)
        try:
            libraries = compiled(modules, self.config.get("types", ""), built)
        except (Exception, SystemExit) as error:  # mypyc exits, and setuptools has errors of its own
            advice = "NEBULA_PURE_PYTHON=1 installs it as pure Python"
            raise RuntimeError(f"{self.metadata.name} could not be compiled: {error}. {advice}.") from error
        for library in libraries:
            if editable:
                shutil.copy(library, Path(self.root, library.relative_to(built / "lib")))
            else:
                build_data["force_include"][str(library)] = str(library.relative_to(built / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was needed until the wheel was written."""
        if self.scratch is not None:
            self.scratch.cleanup()

    def clean(self, versions: list[str]) -> None:
        """Remove what an editable install has put into the tree."""
        package = Path(self.root, self.config["modules"][0]).parts[len(Path(self.root).parts)]
        for library in Path(self.root, package).rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
            library.unlink()


def obstacle() -> str:
    """Why nothing can be compiled here; empty if it can."""
    if os.environ.get("NEBULA_PURE_PYTHON", "0") not in {"", "0"}:
        return "NEBULA_PURE_PYTHON says so"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    try:
        subprocess.run(
            [*compiler, "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-xc", "-"],
            input=b"#include <Python.h>",
            check=True,
            capture_output=True,
        )
    except OSError:
        return f"there is no C compiler {compiler[0]} (on Debian and Ubuntu: apt install gcc libc6-dev; CC=… names another one)"
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or [""]
        return f"{compiler[0]} cannot compile with Python.h (on Debian and Ubuntu: apt install libc6-dev python3-dev): {said[-1]}"
    return ""


def compiled(modules: list[str], types: str, built: Path) -> list[Path]:
    """Compile all modules into one library, so that they call each other without Python in between, and one stub for each."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    os.environ["MYPYPATH"] = types
    package = modules[0].partition("/")[0]
    extensions = mypycify(
        [*MYPY, f"--cache-dir={built / 'types'}", *modules],
        opt_level="2",
        debug_level="0",
        target_dir=str(built / "c"),
        group_name=f"{package}.compiled",
    )
    command = build_ext(Distribution({"ext_modules": extensions}))
    command.build_lib, command.build_temp = str(built / "lib"), str(built / "objects")
    command.ensure_finalized()
    command.run()
    return [Path(path) for path in command.get_outputs()]
