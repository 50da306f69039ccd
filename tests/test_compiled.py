"""What is compiled keeps to the rules of compilation, and what cannot be compiled says why."""

from __future__ import annotations

import ast
import importlib.util
import os
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from nebula_core.compiled import outdated, warning

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT, ROOT / "plugins/nebula-strategy-prefix")
SOURCES = [
    package / module
    for package in PACKAGES
    for module in tomllib.loads((package / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"][
        "modules"
    ]
]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_compiled_module_holds_no_struct_and_no_dataclass(source):
    classes = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ClassDef)]
    special = [ast.unparse(part) for node in classes for part in (*node.bases, *node.decorator_list)]
    assert not [part for part in special if "Struct" in part or "dataclass" in part or "NamedTuple" in part]


def test_without_a_compiler_the_reason_names_it(hook, monkeypatch):
    monkeypatch.delenv("NEBULA_PURE_PYTHON", raising=False)
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert "no C compiler /no/such/compiler" in hook.obstacle()


def test_a_compiler_that_fails_is_told_apart_from_none(hook, monkeypatch):
    monkeypatch.delenv("NEBULA_PURE_PYTHON", raising=False)
    monkeypatch.setenv("CC", "false")
    assert "false cannot compile with Python.h" in hook.obstacle()


def test_compiling_can_be_turned_off(hook, monkeypatch):
    monkeypatch.setenv("NEBULA_PURE_PYTHON", "1")
    assert "NEBULA_PURE_PYTHON" in hook.obstacle()


@pytest.fixture
def package(tmp_path):
    """Three modules in a folder, compiled at second 100; one was changed since, and one removed."""
    package = tmp_path / "package"
    package.mkdir()
    for name, written in (("kept", 99), ("changed", 101), ("removed", None)):
        (package / f"{name}{EXTENSION_SUFFIXES[0]}").touch()
        os.utime(package / f"{name}{EXTENSION_SUFFIXES[0]}", (100, 100))
        if written is not None:
            (package / f"{name}.py").touch()
            os.utime(package / f"{name}.py", (written, written))
    return package


def test_sources_changed_or_removed_since_they_were_compiled_are_outdated(package):
    assert {source.name for source in outdated(package)} == {"changed.py", "removed.py"}


def test_a_tree_under_development_warns_of_them_and_an_installed_package_does_not(package):
    assert warning(package) == ""
    package.with_name("hatch_build.py").touch()
    assert "package/changed.py" in warning(package)
    assert "kept" not in warning(package)
