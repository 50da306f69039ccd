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
from nebula_core.masks import MASK, mask, shown

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


@pytest.mark.parametrize("name", ["password", "api_key", "hub_token", "tokens", "api_tokens", "AUTH_TOKENS", "client_secret"])
@pytest.mark.parametrize("digits", [123456, 12.5, 0])
def test_a_secret_of_digits_is_one_too(name: str, digits: float) -> None:
    assert mask({name: digits, "list": [{name: [digits]}]}, NOTHING) == {name: MASK, "list": [{name: [MASK]}]}
    assert shown(digits, (name,)) == shown(digits, (name, 0)) == MASK


COUNTS = [
    *("max_tokens", "max_num_batched_tokens", "num_speculative_tokens", "kv_capacity_tokens", "context_tokens", "batch_tokens"),
    *("BLOCK_TOKENS", "answer_tokens", "after_tokens", "bytes_per_token"),
]


@pytest.mark.parametrize("name", COUNTS)
def test_a_number_of_tokens_is_shown(name: str) -> None:
    assert mask({name: 0, "list": [{name: [1.5]}]}, NOTHING) == {name: 0, "list": [{name: [1.5]}]}
    assert shown(0, (name,)) == "0"


@pytest.mark.parametrize("value", ["sk-1", ["sk-1"], {"of": "sk-1"}])
def test_whatever_else_stands_where_tokens_are_counted_is_not(value: object) -> None:
    assert shown(value, ("max_batched_tokens",)) == MASK


@pytest.mark.parametrize("value", [{"tokenizer": "x"}, {"key_file_size": "x"}, {"api_key": ""}, {"api_key": None}, {"new_passwords": True}])
def test_what_is_no_secret_is_shown(value: dict[str, object]) -> None:
    assert mask(value, NOTHING) == value
