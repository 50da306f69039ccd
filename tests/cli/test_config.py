"""What `nebula config` shows is a settings file again, without its secrets."""

import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebula_core.cli import toml
from nebula_core.masks import MASK, mask

Run = Callable[..., subprocess.CompletedProcess[str]]
NOTHING: frozenset[str] = frozenset()
scalars = (
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.- é", min_size=1), inner, max_size=3)
)


@given(st.text("ab_-. é", min_size=1), values)
def test_what_is_written_reads_back(name: str, value: object) -> None:
    assert tomllib.loads(f"{toml.key(name)} = {toml.value(value)}") == {name: value}


def test_the_printed_settings_are_a_settings_file(nebula: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        '[gateway]\nport = 9000\n[[models]]\nmodel_uid = "a/b"\nengine = "external"\nurls = ["http://127.0.0.1:1"]\n'
    )
    result = nebula("config")
    (tmp_path / "again.toml").write_text(result.stdout)
    again = json.loads(nebula("config", "--json", "--settings", "again.toml").stdout)
    assert again["settings"] == json.loads(nebula("config", "--json").stdout)["settings"]
    assert again["settings"]["models"][0]["urls"] == ["http://127.0.0.1:1"]


def test_it_says_which_files_it_read(nebula: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("")
    assert f"# from {tmp_path / 'settings.toml'}" in nebula("config").stdout


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_secrets_are_masked(nebula: Run, tmp_path: Path, as_json: list[str]) -> None:
    (tmp_path / "settings.toml").write_text(
        '[[models]]\nmodel_uid = "m"\nengine = "external"\nurls = ["http://me:pass1@host"]\napi_key = "key2"\n'
    )
    (tmp_path / ".secrets.toml").write_text('[node]\nname = "word3"\n')
    shown = nebula("config", *as_json).stdout
    assert shown.count(MASK) == 3
    assert not any(secret in shown for secret in ("pass1", "key2", "word3"))


@pytest.mark.parametrize("name", ["key", "api_key", "apikey", "API_KEY", "hub_token", "db_password", "client_secret", "api_keys"])
def test_a_key_named_like_a_secret_is_one(name: str) -> None:
    assert mask({name: "x", "list": [{name: ["y"]}]}, NOTHING) == {name: MASK, "list": [{name: [MASK]}]}


@pytest.mark.parametrize("value", [{"tokenizer": "x"}, {"max_tokens": 5}, {"key_file_size": "x"}, {"api_key": ""}])
def test_what_is_no_secret_is_shown(value: dict[str, object]) -> None:
    assert mask(value, NOTHING) == value
