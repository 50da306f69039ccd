"""`nebula explain` as its users run it; the admin API is played by a real HTTP server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
DECISION = {"model_uid": "org/m", "strategy": "prefix", "ago_s": 12.0, "picked": "1", "reason": "prefix_hit", "why": "", "figures": {}}
FOUND = {"request_id": "a/b c", "decisions": [{**DECISION, "candidates": []}], "silent_workers": 0}


@pytest.fixture
def admin(server: Any, tmp_path: Path) -> Any:
    """An admin API that the settings file names and that knows the request `a/b c` alone."""
    (tmp_path / "settings.toml").write_text(f'data_dir = "{tmp_path}"\n[admin]\nport = {server.server_port}\n')
    token = tmp_path / "admin.token"
    token.touch(mode=0o600)
    token.write_text("sesame\n")
    answers = {"/admin/v1/decisions/a%2Fb%20c": (200, FOUND)}
    unknown = (404, {"error": {"message": "no decision is known", "type": "x", "code": "y"}})
    server.reply = lambda handler: handler.send_json(*answers.get(handler.path, unknown))
    return server


def test_the_command_asks_for_the_id_as_it_was_given(nebula: Run, admin: Any) -> None:
    assert nebula("explain", "a/b c").stdout.startswith("org/m, 12 s ago: prefix picked the replica 1")
    assert json.loads(nebula("explain", "a/b c", "--json").stdout) == FOUND


def test_an_unknown_request_is_one_message(nebula: Run, admin: Any) -> None:
    result = nebula("explain", "nope")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "error: no decision is known\n")
