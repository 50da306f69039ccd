"""README, CONTRIBUTING and settings.toml say what is true: their examples run, their tables are complete."""

import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from uv import find_uv_bin

from nebula_core import Context, RouteRequest, Strategy, hookspecs, plugins, settings
from nebula_core.cli.app import make_app
from nebula_core.testing.strategy import StrategyContract, make_candidates

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SETTINGS = (ROOT / "settings.toml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = sorted(path.parent.name for folder in ("plugins", "contrib") for path in ROOT.glob(f"{folder}/*/pyproject.toml"))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


PYTHON = blocks(README + CONTRIBUTING, "python")
TOML = blocks(README + CONTRIBUTING, "toml")
PLUGIN = next(block for block in PYTHON if "@hookimpl" in block)
PLUGIN_PROJECT = next(block for block in TOML if "[project]" in block)


def test_every_python_example_compiles() -> None:
    assert PYTHON
    for block in PYTHON:
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("example", [block for block in TOML if "[project" not in block])
def test_every_settings_example_is_valid(example: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(example)

    assert settings.load(file, environ={}).files == (file,)


def test_settings_toml_shows_every_key_of_the_core_with_its_default() -> None:
    shown = tomllib.loads(re.sub(r"^#(?=\S)", "", SETTINGS, flags=re.MULTILINE))
    models = shown.pop("models")

    defaults = settings.Settings().model_dump(mode="json", exclude={"models", "plugin_tables", "files", "data_dir"})
    assert shown.pop("data_dir") == str(settings.Settings.model_fields["data_dir"].default)
    assert shown == defaults
    assert settings.ModelSettings(**models[0]) == settings.ModelSettings(model_uid="smollm2", engine="llamacpp")


def test_settings_toml_names_every_key_of_a_model() -> None:
    for key in settings.ModelSettings.model_fields:
        assert re.search(rf"\b{key}\b", SETTINGS), key


def test_every_hook_is_documented() -> None:
    for hook in vars(hookspecs):
        if hook.startswith("nebula_"):
            assert f"`{hook}" in CONTRIBUTING, hook


def test_every_command_is_documented() -> None:
    app = typer.main.get_command(make_app())
    for command in app.list_commands(typer.Context(app)):
        assert f"`nebula {command}" in README, command


def test_every_file_on_the_way_of_a_request_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)`", CONTRIBUTING)
    folders = (ROOT, ROOT / "nebula_core", ROOT / "nebula_core/gateway/data_path")

    assert [name for name in named if not any((folder / name).is_file() for folder in folders)] == []


def test_the_table_of_packages_is_complete() -> None:
    rows = re.findall(r"^\| \[`([\w-]+)`\]\((\S+)\)", README, flags=re.MULTILINE)

    assert sorted(name for name, _ in rows) == PACKAGES
    assert all((ROOT / folder / "pyproject.toml").is_file() for _, folder in rows)


def test_every_dependency_of_the_core_has_its_reason() -> None:
    named = re.findall(r"^\| ([\w-]+) \|", README.split("## What it stands on")[1], flags=re.MULTILINE)
    declared = [re.match(r"[\w-]+", line)[0] for line in PROJECT["project"]["dependencies"]]

    assert [name for name in named if name != "library"] == declared


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin from the README, installed into a folder of its own."""
    source, site = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("site")
    (source / "nebula_strategy_sticky.py").write_text(PLUGIN)
    (source / "pyproject.toml").write_text(PLUGIN_PROJECT)
    pins = ["--build-constraints", str(ROOT / "constraints.txt")]
    install = [find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", *pins, "--target", str(site)]
    subprocess.run([*install, str(source)], check=True)
    return site


@pytest.fixture
def sticky(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Strategy]:
    """Its strategy, found and built as a gateway worker does."""
    monkeypatch.syspath_prepend(installed)
    yield plugins.load().build("strategy", "sticky", "a test", {"strategy_sticky": {"slack": 2}}, context)
    sys.modules.pop("nebula_strategy_sticky", None)


def test_the_plugin_of_the_readme_has_25_lines() -> None:
    assert len([line for line in PLUGIN.splitlines() if line.strip()]) <= 25


def test_the_plugin_of_the_readme_is_found_by_the_program(installed: Path) -> None:
    nebula = [sys.executable, "-c", "from nebula_core.cli import main; main()", "plugins", "--json"]
    answer = subprocess.run(nebula, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(installed)}).stdout

    found = {plugin["name"]: plugin for plugin in json.loads(answer)["plugins"]}
    assert found["strategy_sticky"]["provides"] == ["strategy:sticky"]
    assert found["strategy_sticky"]["enabled"]


class TestThePluginOfTheReadme(StrategyContract):
    """It is a strategy like any other."""

    @pytest.fixture(autouse=True)
    def _use(self, sticky: Strategy) -> None:
        self.sticky = sticky

    def make_strategy(self) -> Strategy:
        return self.sticky

    def test_it_keeps_a_user_on_one_replica_while_that_is_not_too_busy(self) -> None:
        candidates = make_candidates(3)
        home = self.sticky.select(request("ann"), candidates).candidate
        for _ in range(2):
            home.charge()
            assert self.sticky.select(request("ann"), candidates).candidate is home

        home.charge()
        assert self.sticky.select(request("ann"), candidates) is None

    def test_it_spreads_users(self) -> None:
        candidates = make_candidates(3)

        assert {self.sticky.select(request(f"user {n}"), candidates).candidate for n in range(40)} == set(candidates)


def context(plugin: str) -> Context:
    return Context(logger=logging.getLogger(plugin))


def request(user: str) -> RouteRequest:
    return RouteRequest("r", "m", "/v1/chat/completions", json.dumps({"model": "m", "user": user}).encode())
