"""Users, passwords, tokens that end, rights."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_core import StoreError, StoreUnavailable
from nebula_core.testing.store import next_of, put, until

StoreOn = Callable[..., EtcdStore]
ROOT = ("--user", "root:root")


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd that asks for users, one of whom may do what a gateway needs. Its tokens end after a second without use."""
    with running(tmp_path, ["--logger", "zap", "--auth-token", "simple", "--auth-token-ttl", "1", "--bcrypt-cost", "4"]) as etcd:
        for command in (
            "user add root:root",
            "user grant-role root root",
            "user add nebula:right",
            "role add nebula",
            "role grant-permission nebula --prefix=true readwrite /nebula/",
            "user grant-role nebula nebula",
            "user add gateway:right",
            "role add gateway",
            "role grant-permission gateway --prefix=true read /nebula/placements/",
            "user grant-role gateway gateway",
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
        assert await store.get("/a") is None


async def test_a_user_with_rights_to_some_keys_can_do_what_it_may(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(etcd, user="gateway", password="right") as store:
        listing = await store.list("/placements/")
        with pytest.raises(StoreUnavailable, match="lacks a right"):
            await put(store, "/placements/a", b"")
        with pytest.raises(StoreUnavailable, match="lacks a right"):
            await store.list("/nodes/")
        async with store.watch("/nodes/", listing.revision) as batches:
            with pytest.raises(StoreUnavailable, match="permission denied"):
                await next_of(batches)


async def test_a_user_for_an_etcd_that_asks_for_none_does_no_harm(shared_etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(shared_etcd, user="nebula", password="right", prefix="/needless") as store:
        await put(store, "/a", b"")
