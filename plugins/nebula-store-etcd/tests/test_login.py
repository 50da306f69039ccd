"""Users, passwords, tokens that end, rights."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_core import StoreError, StoreUnavailable
from nebula_core.testing.polling import eventually
from nebula_core.testing.store import next_of, put, until

StoreOn = Callable[..., EtcdStore]
ROOT = ("--user", "root:root")


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd that asks for users, one of whom has no business with Nebula. Its tokens end after a second without use."""
    with running(tmp_path, ["--logger", "zap", "--auth-token", "simple", "--auth-token-ttl", "1", "--bcrypt-cost", "4"]) as etcd:
        for command in (
            "user add root:root",
            "user grant-role root root",
            "user add nebula:right",
            "role add nebula",
            "role grant-permission nebula --prefix=true readwrite /nebula/",
            "user grant-role nebula nebula",
            "user add stranger:right",
            "role add stranger",
            "role grant-permission stranger --prefix=true readwrite /other/",
            "user grant-role stranger stranger",
            "auth enable",
        ):
            etcd.ctl(*shlex.split(command))
        yield etcd


def tokens_ended(etcd: Etcd) -> int:
    return (etcd.folder / "log").read_text().count("deleted a simple token")


async def test_a_token_that_ends_is_replaced_without_anybody_noticing(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, user="nebula", password="right") as store:
        for call in (lambda: put(store, "/a", b""), lambda: store.grant(5)):
            await call()
            before = tokens_ended(etcd)
            await until(lambda before=before: tokens_ended(etcd) > before)
            await call()


async def test_a_watch_is_opened_after_its_token_has_ended(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, user="nebula", password="right") as store:
        start = await put(store, "/a", b"")
        written = await put(store, "/a", b"")
        before = tokens_ended(etcd)
        await until(lambda: tokens_ended(etcd) > before)
        async with store.watch("/", start) as batches:
            assert (await next_of(batches)).revision == written


async def test_a_wrong_password_stops_the_start_and_names_the_setting(etcd: Etcd, store_on: StoreOn) -> None:
    with pytest.raises(StoreError, match=r"\[store_etcd\] user and password") as caught:
        async with store_on(etcd, user="nebula", password="wrong"):
            pass
    assert not isinstance(caught.value, StoreUnavailable)


async def test_a_user_who_may_not_read_what_every_role_follows_stops_the_start(etcd: Etcd, store_on: StoreOn) -> None:
    with pytest.raises(StoreError, match=r'"stranger" \(\[store_etcd\] user\) may not read /nebula/\S+; `nebula etcd users`') as caught:
        async with store_on(etcd, user="stranger", password="right"):
            pass
    assert not isinstance(caught.value, StoreUnavailable)


async def test_an_etcd_that_asks_for_a_user_is_told_apart_from_one_that_is_down(etcd: Etcd, store_on: StoreOn) -> None:
    with pytest.raises(StoreError, match=r"set \[store_etcd\] user, and password in .secrets.toml") as caught:
        async with store_on(etcd):
            pass
    assert not isinstance(caught.value, StoreUnavailable)


async def test_a_password_that_is_changed_makes_the_store_unavailable_and_stops_nothing(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, user="nebula", password="right") as store:
        etcd.ctl(*ROOT, "user", "delete", "nebula")
        with pytest.raises(StoreUnavailable, match=r"\[store_etcd\] user"):
            await store.get("/a")

        etcd.ctl(*ROOT, "user", "add", "nebula:right")
        etcd.ctl(*ROOT, "user", "grant-role", "nebula", "nebula")

        async def is_back() -> bool:
            with suppress(StoreUnavailable):
                return await store.get("/a") is None
            return False

        assert await eventually(is_back)


async def test_a_login_that_is_refused_is_not_tried_with_every_call(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, user="nebula", password="right") as store:
        etcd.ctl(*ROOT, "user", "delete", "nebula")
        before = logins(etcd)
        for _ in range(50):
            with pytest.raises(StoreUnavailable):
                await store.get("/a")
        assert logins(etcd) - before <= 2


def logins(etcd: Etcd) -> float:
    method = 'grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",grpc_type="unary"'
    return etcd.metric(f"grpc_server_started_total{{{method}}}")


async def test_a_user_for_an_etcd_that_asks_for_none_does_no_harm(shared_etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(shared_etcd, user="nebula", password="right", prefix="/needless") as store:
        await put(store, "/a", b"")
