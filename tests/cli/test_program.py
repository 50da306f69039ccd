"""How the program behaves as a whole: help, versions, mistakes, exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nebula_core.cli.app import make_app

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = ["up", "gateway", "scheduler", "node", "status", "apply", "chat", "plugins", "config"]
MODEL_COMMANDS = ["list", "load", "unload", "scale"]


def help_of(*command: str) -> str:
    return CliRunner().invoke(make_app(), [*command, "--help"], env={"COLUMNS": "100"}).output


def test_help_lists_every_command(nebula: Run) -> None:
    result = nebula("--help")
    assert result.returncode == 0
    assert all(f" {command} " in result.stdout for command in [*COMMANDS, "models"])


@pytest.mark.parametrize("command", [*COMMANDS, *(f"models {name}" for name in MODEL_COMMANDS)])
def test_the_help_of_every_command_shows_an_example(command: str) -> None:
    assert f"Example: nebula {command}" in help_of(*command.split())


def test_help_imports_no_server_and_no_http_client() -> None:
    code = (
        "import sys; from nebula_core.cli.app import make_app; sys.exit(len({'httpx', 'fastapi', 'uvloop', 'dynaconf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_printed(nebula: Run) -> None:
    assert nebula("--version").stdout in {"nebula 0.1.0 (compiled)\n", "nebula 0.1.0 (pure Python)\n"}


@pytest.mark.parametrize(
    "args", [["nosuch"], ["models"], ["status", "--nosuch"], ["chat"], ["status", "--json", "--watch"], ["up", "--port", "x"]]
)
def test_wrong_usage_ends_with_2(nebula: Run, args: list[str]) -> None:
    result = nebula(*args)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        "up",
        "gateway",
        "scheduler",
        "node",
        "status",
        "apply",
        "models list",
        "models unload m",
        "models scale m 2",
        "chat m hi",
        "plugins",
        "config",
    ],
)
def test_a_settings_file_that_is_missing_is_one_message_on_every_command(nebula: Run, command: str) -> None:
    result = nebula(*command.split(), "--settings", "none.toml")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "error: there is no settings file none.toml\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gateway\n", "cannot be read"),
        ("[gateway]\nprot = 1\n", '[gateway] has no key "prot"; did you mean "port"?'),
        ('[router]\nstrategy = "nosuch"\n', '[router] strategy asks for the strategy "nosuch", which is not installed'),
        ('[plugins]\ndisabled = ["nosuch"]\n', '[plugins] disabled names "nosuch", which is not installed'),
        ("[strategy_least_pending]\nnosuch = 1\n", '[strategy_least_pending] has no key "nosuch"'),
    ],
)
@pytest.mark.parametrize("command", ["up", "config"])
def test_settings_that_cannot_be_used_are_one_message(nebula: Run, tmp_path: Path, command: str, text: str, message: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    result = nebula(command)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_goes_away_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from nebula_core.cli import main; main()", "config"]
    with os.fdopen(write, "w") as gone:
        result = subprocess.run(command, env=environment, cwd=tmp_path, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert result.stderr == ""


def test_a_terminal_without_utf_8_gets_question_marks(nebula: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[[models]]\nmodel_uid = "模型"\nengine = "external"\nurls = ["http://127.0.0.1:1"]\n')
    result = nebula("config", PYTHONIOENCODING="ascii")
    assert 'model_uid = "??"' in result.stdout


def test_config_as_json_is_one_document(nebula: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[gateway]\nport = 9000\n")
    document = json.loads(nebula("config", "--json").stdout)
    assert document["settings"]["gateway"]["port"] == 9000
    assert document["files"] == [str(tmp_path / "settings.toml")]
