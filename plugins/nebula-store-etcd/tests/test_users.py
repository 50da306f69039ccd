"""`nebula etcd users`: who may do what in etcd, run as an operator runs it."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nebula_store_etcd import rights
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_core import Delete, Put, StoreError, StoreUnavailable, Unchanged, serve
from nebula_core.admin import view
from nebula_core.roles import Role
from nebula_core.testing.store import next_of

StoreOn = Callable[..., EtcdStore]
NEBULA = str(Path(sys.executable).with_name("nebula"))
ROOT = ("--user", "root:secret")
ROLES = tuple(rights.WRITE)


class Operator:
    """Runs `nebula etcd users` against an etcd."""

    def __init__(self, etcd: Etcd, folder: Path, prefix: str = "/nebula") -> None:
        self.out = folder / "secrets"
        self._settings = folder / "settings.toml"
        self._settings.write_text(f'[store_etcd]\nendpoints = ["{etcd.endpoint}"]\nprefix = "{prefix}"\nuser = "{prefix[1:]}-node"\n')

    def run(self, *options: str, password: str = "secret") -> subprocess.CompletedProcess[str]:
        command = [NEBULA, "etcd", "users", "--settings", str(self._settings), *options]
        environment = {**os.environ, "ETCD_ROOT_PASSWORD": password, "NO_COLOR": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, stdin=subprocess.DEVNULL, timeout=60)

    def document(self, *options: str) -> Any:
        done = self.run("--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running(tmp_path / "etcd", ["--bcrypt-cost", "4"]) as etcd:
        yield etcd


@pytest.fixture
def operator(etcd: Etcd, tmp_path: Path) -> Operator:
    return Operator(etcd, tmp_path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, dict[str, dict[str, str]]]]:
    """An etcd with authentication on and a user for each role, and how each logs in."""
    folder = tmp_path_factory.mktemp("guarded")
    with running(folder / "etcd", ["--bcrypt-cost", "4"]) as etcd:
        document = Operator(etcd, folder).document("--enable-auth")
        yield etcd, {each["role"]: {"user": each["user"], "password": each["password"]} for each in document["roles"]}


def test_the_table_of_rights_is_what_the_roles_follow_and_show() -> None:
    assert set(rights.READ) == set(view.PREFIXES)
    for role in Role:
        assert set(serve.PREFIXES[role]) <= {*rights.READ, *rights.WRITE[role]}


def test_every_role_gets_a_user_and_authentication_is_turned_on(operator: Operator, etcd: Etcd) -> None:
    done = operator.run("--enable-auth", "--out", str(operator.out))
    assert done.returncode == 0, done.stderr
    for role in ROLES:
        file = operator.out / f"{role}.secrets.toml"
        assert file.stat().st_mode & 0o777 == 0o600
        login = tomllib.loads(file.read_text())["store_etcd"]
        assert login["user"] == f"nebula-{role}"
        assert login["password"] not in done.stdout
        etcd.ctl("--user", f"{login['user']}:{login['password']}", "get", "/nebula/placements/a")
    assert etcd.ctl(*ROOT, "user", "list").split() == ["nebula-gateway", "nebula-node", "nebula-scheduler", "root"]


def test_a_second_run_changes_nothing_and_a_right_that_differs_is_mended(operator: Operator, etcd: Etcd) -> None:
    operator.document("--enable-auth")
    assert [each["changes"] for each in operator.document()["roles"]] == [[], [], []]

    for command in (
        "role grant-permission nebula-node --prefix=true readwrite /nebula/placements/",
        "role grant-permission nebula-node readwrite /nebula/anything",
        "role revoke-permission nebula-node --prefix=true /nebula/stats/",
    ):
        etcd.ctl(*ROOT, *shlex.split(command))
    [node] = operator.document("--role", "node")["roles"]
    assert node["changes"] == [
        "let the role nebula-node no longer read and write /nebula/anything",
        "let the role nebula-node read and write /nebula/stats/* and read /nebula/placements/*",
    ]
    assert operator.document("--role", "node")["roles"][0]["changes"] == []


def test_a_dry_run_tells_and_does_nothing(operator: Operator, etcd: Etcd) -> None:
    done = operator.run("--dry-run", "--enable-auth", "--out", str(operator.out))
    assert "would add the user nebula-gateway" in done.stdout
    assert "would turn authentication on" in done.stdout
    assert not operator.out.exists()
    assert etcd.ctl("user", "list").split() == etcd.ctl("role", "list").split() == []


def test_secrets_that_are_there_are_not_overwritten_and_nothing_is_done(operator: Operator, etcd: Etcd) -> None:
    operator.out.mkdir()
    (operator.out / "node.secrets.toml").write_text("mine")
    done = operator.run("--out", str(operator.out))
    assert done.returncode == 1
    assert "node.secrets.toml is there already" in done.stderr
    assert (operator.out / "node.secrets.toml").read_text() == "mine"
    assert etcd.ctl("user", "list").split() == []


def test_users_keep_their_passwords_unless_new_ones_are_asked_for(operator: Operator, etcd: Etcd) -> None:
    old = operator.document("--enable-auth", "--role", "node")["roles"][0]["password"]
    assert "password" not in operator.document("--role", "node")["roles"][0]
    new = operator.document("--role", "node", "--new-passwords")["roles"][0]["password"]
    assert new != old
    etcd.ctl("--user", f"nebula-node:{new}", "get", "/nebula/placements/a")


def test_an_etcd_that_asks_nobody_for_a_login_is_not_called_safe(operator: Operator) -> None:
    done = operator.run()
    assert done.returncode == 0
    assert "protect nothing" in done.stdout
    assert "--enable-auth" in done.stdout


def test_another_prefix_has_users_of_its_own(operator: Operator, etcd: Etcd, tmp_path: Path) -> None:
    operator.document("--enable-auth", "--role", "node")
    folder = tmp_path / "other"
    folder.mkdir()
    [node] = Operator(etcd, folder, "/lab").document("--role", "node")["roles"]
    assert node["user"] == "nebula/lab-node"
    assert "[/lab/nodes/, /lab/nodes0)" in etcd.ctl(*ROOT, "role", "get", "nebula/lab-node")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--role", "nodes"), "there is no such role; they are gateway, scheduler, node"),
        (("--enable-auth", "--root-user", "admin"), "--root-user root"),
    ],
)
def test_wrong_options_are_named(operator: Operator, options: tuple[str, ...], told: str) -> None:
    done = operator.run(*options)
    assert done.returncode == 1
    assert told in done.stderr


def test_a_wrong_root_password_and_an_etcd_that_is_away_are_named(operator: Operator, etcd: Etcd) -> None:
    operator.document("--enable-auth", "--role", "node")
    wrong = operator.run(password="wrong")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert 'as the user "root": etcd does not accept this password' in wrong.stderr

    etcd.stop()
    away = operator.run()
    assert away.returncode == 1
    assert "[store_etcd] endpoints" in away.stderr


def test_without_a_terminal_the_variable_for_the_password_is_named(operator: Operator) -> None:
    done = operator.run(password="")
    assert done.returncode == 1
    assert "ETCD_ROOT_PASSWORD" in done.stderr


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_can_do_what_it_does_and_no_more(
    guarded: tuple[Etcd, dict[str, dict[str, str]]], store_on: StoreOn, role: str
) -> None:
    etcd, logins = guarded
    async with store_on(etcd, **logins[role]) as store:
        lease = await store.grant(30)
        for area in (*rights.READ, "/seeds/"):
            key = f"{area}{role}"
            if area in rights.WRITE[role]:
                assert await store.transact([Put(key, b"", lease)], [Unchanged(key, 0)])
                assert await store.transact([Put(key, b"")])
                assert await store.transact([Delete(key)])
            else:
                for write in (Put(key, b""), Delete(key)):
                    with pytest.raises(StoreUnavailable, match=rf'"nebula-{role}" .* may not write /nebula{key}; `nebula etcd users`'):
                        await store.transact([write])
        for area in rights.READ:
            listing = await store.list(area)
            async with store.watch(area, listing.revision - 1):
                pass
        await store.keep_alive(lease)
        await store.revoke(lease)
        await store.compact()


async def test_what_a_role_may_not_watch_or_read_is_named(guarded: tuple[Etcd, dict[str, dict[str, str]]], store_on: StoreOn) -> None:
    etcd, logins = guarded
    async with store_on(etcd, **logins["node"]) as store:
        for refused in (store.get("/keys/a"), store.list("/keys/")):
            with pytest.raises(StoreUnavailable, match=r'"nebula-node" .* may not read /nebula/keys/'):
                await refused
        async with store.watch("/keys/", 1) as batches:
            with pytest.raises(StoreUnavailable, match=r"permission denied: .* may not watch /nebula/keys/\*"):
                await next_of(batches)


async def test_the_user_of_one_prefix_is_refused_at_the_start_under_another(
    guarded: tuple[Etcd, dict[str, dict[str, str]]], store_on: StoreOn
) -> None:
    etcd, logins = guarded
    with pytest.raises(StoreError, match="may not read /lab/") as caught:
        async with store_on(etcd, prefix="/lab", **logins["node"]):
            pass
    assert not isinstance(caught.value, StoreUnavailable)
