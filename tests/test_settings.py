"""Settings: where they come from, which of them wins, and what a mistake in them says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from nebula_core import settings
from nebula_core.errors import SettingsError
from nebula_core.settings import Settings

MODEL = '[[models]]\nmodel_uid = "smollm2"\nengine = "llamacpp"\n'


def load(folder: Path, text: str, secrets: str = "", **environ: str) -> Settings:
    file = folder / "settings.toml"
    file.write_text(text)
    if secrets:
        (folder / ".secrets.toml").write_text(secrets)
    return settings.load(file, environ)


def message_of(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(folder, text, **environ)
    return str(caught.value)


def test_without_a_file_everything_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = settings.load(environ={})
    assert (found.gateway.port, found.admin.port, found.router.strategy, found.models) == (8080, 8081, "prefix", ())


def test_the_settings_file_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.toml").write_text("[gateway]\nport = 9000\n")
    monkeypatch.chdir(tmp_path)
    found = settings.load(environ={})
    assert found.gateway.port == 9000
    assert found.files == (tmp_path / "settings.toml",)


def test_the_environment_wins_over_secrets_and_those_over_the_file(tmp_path: Path) -> None:
    text = "[gateway]\nport = 1\nworkers = 1\nname = 'file'\n"
    found = load(tmp_path, text, secrets="[gateway]\nworkers = 2\nname = 'secret'\n", NEBULA_GATEWAY__NAME="environment")
    assert (found.gateway.port, found.gateway.workers, found.gateway.name) == (1, 2, "environment")


def test_the_command_line_wins_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("")
    found = settings.load(tmp_path / "settings.toml", {"NEBULA_GATEWAY__PORT": "1"}, {"gateway.port": 2})
    assert found.gateway.port == 2


def test_secrets_beside_the_file_are_read_and_listed(tmp_path: Path) -> None:
    found = load(tmp_path, "", secrets='[engine_external]\napi_key = "k"\n')
    assert found.plugin_tables == {"engine_external": {"api_key": "k"}}
    assert found.files == (tmp_path / "settings.toml", tmp_path / ".secrets.toml")


def test_a_list_in_the_environment_replaces_the_files(tmp_path: Path) -> None:
    found = load(tmp_path, '[gateway]\ncors_origins = ["a"]\n', NEBULA_GATEWAY__CORS_ORIGINS='["b"]')
    assert found.gateway.cors_origins == ("b",)


def test_a_variable_that_is_not_toml_is_text(tmp_path: Path) -> None:
    assert load(tmp_path, "", NEBULA_NODE__ADDRESS="10.0.0.7").node.address == "10.0.0.7"


def test_a_variable_may_create_a_plugins_table(tmp_path: Path) -> None:
    found = load(tmp_path, "", NEBULA_STRATEGY_PREFIX__BLOCK_CHARS="64")
    assert found.plugin_tables == {"strategy_prefix": {"block_chars": 64}}


def test_other_variables_with_the_prefix_are_ignored(tmp_path: Path) -> None:
    assert load(tmp_path, "", NEBULA_API_KEY="x", NEBULA_GATEWAY="y", NEBULA__PORT="1", NEBULA_GATEWAY__="1") == load(tmp_path, "")


def test_the_data_folder_has_a_variable_of_its_own(tmp_path: Path) -> None:
    assert load(tmp_path, "", NEBULA_DATA_DIR=str(tmp_path / "state")).data_dir == tmp_path / "state"


def test_a_table_that_is_not_the_cores_belongs_to_a_plugin(tmp_path: Path) -> None:
    assert load(tmp_path, "[engine_llamacpp]\nthreads = 2\n").plugin_tables == {"engine_llamacpp": {"threads": 2}}


def test_keys_beside_the_cores_in_a_model_belong_to_its_engine(tmp_path: Path) -> None:
    found = load(tmp_path, MODEL + "threads = 2\nextra = { a = [1] }\n")
    assert found.models[0].engine_args == {"threads": 2, "extra": {"a": [1]}}


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    found = load(tmp_path, "")
    with pytest.raises(ValidationError):
        found.gateway.port = 1


def test_a_file_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no settings file .*none\.toml"):
        settings.load(tmp_path / "none.toml", {})


@pytest.mark.parametrize("text", ["[gateway\nport = 1", "port = ", "a = 1\na = 2"])
def test_a_malformed_file_is_named_with_the_line(tmp_path: Path, text: str) -> None:
    message = message_of(tmp_path, text)
    assert str(tmp_path / "settings.toml") in message
    assert "cannot be read" in message


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        settings.load(tmp_path / "settings.toml", {})


def test_a_misspelt_key_is_shown_with_its_neighbours(tmp_path: Path) -> None:
    message = message_of(tmp_path, "[gateway]\nprot = 1\n")
    assert message.startswith(f'{tmp_path / "settings.toml"}: [gateway] has no key "prot"; did you mean "port"? (its keys: ')
    assert "workers" in message


def test_a_misspelt_variable_is_named_as_a_variable(tmp_path: Path) -> None:
    assert message_of(tmp_path, "", NEBULA_GATEWAY__PROT="1").startswith('NEBULA_GATEWAY__PROT: [gateway] has no key "prot"')


def test_a_variable_below_a_plain_value_is_refused(tmp_path: Path) -> None:
    assert 'NEBULA_GATEWAY__PORT__X: "port" is not a table' in message_of(tmp_path, "[gateway]\nport = 1\n", NEBULA_GATEWAY__PORT__X="1")


def test_every_mistake_has_its_own_line(tmp_path: Path) -> None:
    lines = message_of(tmp_path, '[gateway]\nport = "x"\n[log]\nlevel = "loud"\n').splitlines()
    assert len(lines) == 2
    assert "[gateway] port: Input should be a valid integer" in lines[0]
    assert "[log] level: Input should be 'debug', 'info', 'warning' or 'error', got 'loud'" in lines[1]


def test_a_key_outside_every_table_is_refused(tmp_path: Path) -> None:
    assert 'there is no key "port" at the top level (tables: admin, ' in message_of(tmp_path, "port = 1\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[models]]\nmodel_uid = "a"\n', '[[models]] "a" lacks the key "engine" (its keys: aliases, engine, '),
        (MODEL + '[[models]]\nengine = "e"\n', '[[models]] number 2 lacks the key "model_uid"'),
        (MODEL + "replicas = -1\n", '[[models]] "smollm2" replicas: Input should be greater than or equal to 0, got -1'),
        (MODEL + "min_replicas = 2\nmax_replicas = 1\n", '[[models]] "smollm2": min_replicas (2) is above max_replicas (1)'),
        ('[models]\nmodel_uid = "a"\n', "[[models]] is not a table"),
        ("gateway = 3\n", "[gateway] is not a table"),
    ],
)
def test_a_mistake_names_its_table(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in message_of(tmp_path, text)


def test_two_models_cannot_share_a_name(tmp_path: Path) -> None:
    text = MODEL + '[[models]]\nmodel_uid = "other"\nengine = "e"\naliases = ["smollm2"]\n'
    assert '[[models]]: the name "smollm2" is used by two models, "smollm2" and "other"' in message_of(tmp_path, text)


def test_two_tables_for_one_model_are_refused(tmp_path: Path) -> None:
    assert 'two [[models]] tables have the model_uid "smollm2": a model has one table' in message_of(tmp_path, MODEL + MODEL)


@pytest.mark.parametrize(
    "text",
    [
        "[gateway]\nname = 1\nport = 'x'\n[admin]\nport = 'https://me:hunter2@host'\n",
        "[node]\nengine_ports = { password = 'hunter2' }\n",
        "[store]\napi_key = 'hunter2'\n",
    ],
)
def test_a_mistake_does_not_show_a_secret(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in message_of(tmp_path, text)
