"""What a plugin author imports is exactly what is promised, and every hook says when it is called."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import nebula_core
from nebula_core import hookspecs

HOOKS = {name: member for name, member in vars(hookspecs).items() if name.startswith("nebula_")}


def test_all_names_exactly_what_can_be_imported() -> None:
    public = {name for name, member in vars(nebula_core).items() if not name.startswith("_") and not isinstance(member, ModuleType)}
    assert public == set(nebula_core.__all__)


def test_the_promised_names_are_sorted_and_unique() -> None:
    assert nebula_core.__all__ == sorted(set(nebula_core.__all__))


def written_docstring(member: type) -> str | None:
    """What the source says: compilation drops it."""
    source = Path(nebula_core.__file__).parents[1] / f"{member.__module__.replace('.', '/')}.py"
    return next(
        ast.get_docstring(node)
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == member.__name__
    )


@pytest.mark.parametrize("name", nebula_core.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    member = getattr(nebula_core, name)
    assert not isinstance(member, type) or inspect.getdoc(member) or written_docstring(member)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_a_documented_plain_function(name: str) -> None:
    hook = HOOKS[name]
    assert hasattr(hook, "nebula_spec")
    assert not inspect.iscoroutinefunction(hook)
    assert inspect.getdoc(hook)


def test_the_hooks_fit_on_one_screen() -> None:
    assert len(inspect.getsource(hookspecs).splitlines()) <= 98


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "httpx", "dynaconf", "typer", "rich", "uvloop"])
def test_importing_the_public_api_stays_light(module: str) -> None:
    code = f"import sys, nebula_core; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
