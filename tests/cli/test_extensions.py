"""Commands that plugins add, and what a broken plugin does to the command line: nothing but a warning."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nebula_core.testing import made_up

Run = Callable[..., subprocess.CompletedProcess[str]]
Install = Callable[[str, str], None]

GREET = """
import typer
from nebula_core import hookimpl

@hookimpl
def nebula_add_cli(cli: typer.Typer):
    @cli.command()
    def greet(name: str = "world"):
        "Greet somebody."
        print(f"hello {name}")

    @cli.command()
    def status():
        "Take the place of a command of the core."
        print("not the core")
"""
BROKEN = "import no_such_package_at_all\n"


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Installs a plugin with this name and source into the folder that `nebula` runs in."""
    return lambda name, source: made_up.install(tmp_path, source, name)


def test_a_plugins_command_is_listed_and_runs(nebula: Run, install: Install) -> None:
    install("greeter", GREET)
    assert " greet " in nebula("--help").stdout
    assert nebula("greet", "--name", "Ada").stdout == "hello Ada\n"


def test_the_cores_commands_stay_the_cores(nebula: Run, install: Install) -> None:
    install("greeter", GREET)
    assert "Take the place" not in nebula("--help").stdout
    assert "Take the place" not in nebula("status", "--help").stdout


def test_a_disabled_plugin_adds_nothing(nebula: Run, install: Install) -> None:
    install("greeter", GREET)
    assert nebula("greet", NEBULA_PLUGINS__DISABLED='["greeter"]').returncode == 2


@pytest.mark.parametrize("source", [BROKEN, GREET.replace("typer.Typer):", "typer.Typer):\n    1 / 0")])
def test_help_survives_a_broken_plugin_and_names_it(nebula: Run, install: Install, source: str) -> None:
    install("broken", source)
    result = nebula("--help")
    assert result.returncode == 0
    assert " status " in result.stdout
    assert 'warning: the plugin "broken" failed' in result.stderr
    assert '[plugins] disabled = ["broken"]' in result.stderr


def test_one_broken_plugin_does_not_take_away_anothers_commands(nebula: Run, install: Install) -> None:
    install("broken", BROKEN)
    install("greeter", GREET)
    assert nebula("greet").stdout == "hello world\n"


def test_the_cores_commands_do_not_even_look_at_plugins(nebula: Run, install: Install) -> None:
    install("loud", "print('imported')\n")
    assert nebula("status", "--help").stdout.count("imported") == 0


def test_plugins_shows_what_is_installed(nebula: Run, install: Install) -> None:
    install("greeter", GREET)
    found = {plugin["name"]: plugin for plugin in json.loads(nebula("plugins", "--json").stdout)["plugins"]}
    assert found["greeter"] == {
        "name": "greeter",
        "distribution": "nebula-greeter",
        "version": "1.0",
        "state": "enabled",
        "enabled": True,
        "note": "",
        "provides": ["nebula_add_cli"],
    }
    assert found["strategy_least_pending"]["provides"] == ["strategy:least_pending"]


def test_plugins_says_why_one_is_not_enabled(nebula: Run, install: Install) -> None:
    install("broken", BROKEN)
    install("greeter", GREET)
    result = nebula("plugins", "--json", NEBULA_PLUGINS__DISABLED='["greeter"]')
    found = {plugin["name"]: plugin for plugin in json.loads(result.stdout)["plugins"]}
    assert result.returncode == 0
    assert (found["greeter"]["state"], found["greeter"]["note"]) == ("disabled", "disabled in [plugins]")
    assert found["broken"]["state"] == "broken"
    assert "No module named 'no_such_package_at_all'" in found["broken"]["note"]


def test_plugins_puts_the_reason_under_the_row(nebula: Run, install: Install) -> None:
    install("broken", BROKEN)
    lines = nebula("plugins").stdout.splitlines()
    (row,) = [number for number, line in enumerate(lines) if line.startswith("broken ")]
    assert lines[row].split() == ["broken", "broken", "1.0", "nebula-broken"]
    assert "No module named" in lines[row + 1]


def test_plugins_warns_about_a_table_that_nobody_reads(nebula: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[strategy_imagined]\nblock_chars = 64\n")
    result = nebula("plugins", "--json")
    assert result.returncode == 0
    assert result.stderr == "warning: [strategy_imagined] is the settings table of no installed plugin\n"
    assert json.loads(result.stdout)


def test_plugins_refuses_a_misspelt_key_in_a_plugins_table(nebula: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[strategy_least_pending]\nnosuch = 1\n")
    result = nebula("plugins")
    assert result.returncode == 1
    assert result.stderr.startswith('error: [strategy_least_pending] has no key "nosuch"')


RAISING = """
from nebula_core import NebulaError, hookimpl

@hookimpl
def nebula_add_cli(cli):
    @cli.command()
    def refuse():
        raise NebulaError("no such thing")

    @cli.command()
    def refuse_at_once():
        raise ExceptionGroup("parts", [NebulaError("first"), ExceptionGroup("more", [NebulaError("second"), NebulaError("first")])])

    @cli.command()
    def fail():
        raise ZeroDivisionError("a bug")

    @cli.command()
    def interrupt():
        raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [("refuse", 1, "error: no such thing\n"), ("refuse-at-once", 1, "error: first\nerror: second\n"), ("interrupt", 130, "")],
)
def test_a_command_that_refuses_ends_without_a_traceback(nebula: Run, install: Install, command: str, code: int, message: str) -> None:
    install("raising", RAISING)
    result = nebula(command)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", message)


def test_a_bug_is_a_plain_traceback(nebula: Run, install: Install) -> None:
    install("raising", RAISING)
    result = nebula("fail")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("ZeroDivisionError: a bug\n")
