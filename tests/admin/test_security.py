"""Who may talk to the admin port."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from nebula_core.admin import token
from nebula_core.errors import AdminError

STATUS = "/admin/v1/status"


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic abc", "Bearer \xff"])
async def test_without_the_token_nothing_is_answered(nebula, given):
    answer = await nebula.http.get(STATUS, headers={"authorization": given.encode("latin-1")})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "admin.token" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/admin", "/admin/v1/models/m", "/nothing", "/docsx", "/docs/assetsx", "/Docs", "//docs/assets/x"])
async def test_every_other_path_needs_the_token_too(nebula, path):
    assert (await nebula.http.get(f"{nebula.url}{path}", headers={"authorization": ""})).status_code == 401


async def test_health_is_open_to_anybody(nebula):
    answer = await nebula.http.get("/health", headers={"authorization": "", "host": "load-balancer"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.1:8081", "[::1]", "[::1]:8081", "nebula.example.org", "nebula.example.org:443"],
)
async def test_it_answers_to_its_own_names(serve_admin, host):
    async with serve_admin(admin={"allowed_hosts": ["nebula.example.org"]}) as nebula:
        assert (await nebula.http.get(STATUS, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.org", "evil.org:8081", "localhost.evil.org", "127.0.0.1.evil.org", "a@localhost", "localhost@evil.org", "10.9.8.7", "[::2]",
     "localhost:x", "localhost:8081:1", "local host", "localhost/x", ""],
)  # fmt: skip
async def test_it_does_not_answer_to_other_names(nebula, host):
    for path in (STATUS, "/docs"):
        answer = await nebula.http.get(path, headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
        assert "allowed_hosts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("origin", ["http://evil.org", "null", "http://localhost:1", "https://127.0.0.1", "file://", "http://127.0.0.1:x"])
async def test_pages_of_other_sites_are_refused(nebula, origin):
    answer = await nebula.http.get(STATUS, headers={"origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")


async def test_its_own_pages_may_call_it(nebula):
    assert (await nebula.http.get(STATUS, headers={"origin": nebula.url})).status_code == 200
    own = {"host": "localhost", "origin": "http://localhost:80"}
    assert (await nebula.http.get(STATUS, headers=own)).status_code == 200


async def test_a_name_that_is_listened_on_needs_no_further_permission(serve_admin):
    async with serve_admin(admin={"host": "nebula-1"}) as nebula:
        port = urlsplit(nebula.url).port
        assert (await nebula.http.get(STATUS, headers={"host": f"nebula-1:{port}"})).status_code == 200


# --- the token ----------------------------------------------------------------------------------------------------------------


def test_the_token_is_made_once_and_private(tmp_path):
    made = token.ensure(tmp_path / "data")
    assert len(made) >= 32
    assert token.ensure(tmp_path / "data") == token.read(tmp_path / "data") == made
    assert stat.S_IMODE(token.path(tmp_path / "data").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["admin.token"]


def test_two_that_start_at_once_agree_on_one_token(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: token.ensure(tmp_path), range(8)))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["admin.token"]


def test_a_token_that_others_can_read_is_refused(tmp_path):
    token.ensure(tmp_path)
    token.path(tmp_path).chmod(0o644)
    with pytest.raises(AdminError, match=r"others can read the admin token .*admin.token: delete it"):
        token.ensure(tmp_path)


def test_a_missing_token_says_what_to_do(tmp_path):
    with pytest.raises(AdminError, match=r"there is no admin token .*start one with `nebula up`"):
        token.read(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdminError, match=r"the admin token .*file/admin.token cannot be written"):
        token.ensure(tmp_path / "file")
