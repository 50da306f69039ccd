"""Where keys lie in etcd, and that several Nebulas share one without meeting."""

import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_store_etcd.keyspace import Keyspace
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd

from nebula_core import Delete, Put
from nebula_core.testing.store import keys, next_of, put

StoreOn = Callable[..., EtcdStore]
TEXT = st.text(st.one_of(st.sampled_from("/\0ab2"), st.characters(exclude_categories=["Cs"])), max_size=8)
KEYS = TEXT.filter(bool)
PREFIXES = st.sampled_from(["", "/nebula", "/nebula2", "/nebula/inner"])


@given(PREFIXES, KEYS)
def test_every_key_has_a_place_and_comes_back_from_it(prefix: str, key: str) -> None:
    keyspace = Keyspace(prefix)
    assert keyspace.decode(keyspace.encode(key)) == key
    assert keyspace.encode(key).startswith(prefix.encode() + b"/")


@given(PREFIXES, KEYS, KEYS)
def test_two_keys_have_two_places(prefix: str, one: str, other: str) -> None:
    assert (Keyspace(prefix).encode(one) == Keyspace(prefix).encode(other)) == (one == other)


@given(PREFIXES, KEYS, TEXT)
def test_a_range_holds_every_key_with_the_prefix_and_only_escaped_ones_beside(prefix: str, key: str, asked: str) -> None:
    keyspace = Keyspace(prefix)
    start, end = keyspace.range(asked)
    inside = start <= keyspace.encode(key) < end
    if key.startswith(asked):
        assert inside
    elif inside:
        assert not key.startswith("/")


def test_keys_lie_where_one_looks_for_them() -> None:
    assert Keyspace("/nebula").encode("/placements/Qwen%2FQwen3-8B") == b"/nebula/placements/Qwen%2FQwen3-8B"
    assert Keyspace("/nebula").range("/placements/") == (b"/nebula/placements/", b"/nebula/placements0")


async def test_two_nebulas_on_one_etcd_see_nothing_of_each_other(shared_etcd: Etcd, store_on: StoreOn) -> None:
    name = f"/{uuid.uuid4()}"
    async with store_on(shared_etcd, prefix=name) as one, store_on(shared_etcd, prefix=f"{name}2") as other:
        start = await put(one, "/a", b"one")
        await put(other, "/a", b"other")
        written = await put(one, "2/a", b"one")

        assert await keys(one, "") == ["/a", "2/a"]
        assert await keys(other, "") == ["/a"]
        async with one.watch("", start) as batches:
            assert (await next_of(batches)).revision == written


async def test_what_others_keep_in_the_same_etcd_stays_as_it_is(shared_etcd: Etcd, store_on: StoreOn) -> None:
    prefix = f"/{uuid.uuid4()}"
    shared_etcd.ctl("put", f"{prefix}/placements/odd", "not ours")
    shared_etcd.ctl("put", f"{prefix}-other/a", "not ours")
    async with store_on(shared_etcd, prefix=prefix) as store:
        lease = await store.grant(60)
        await store.transact([Put("/placements/a", b"", lease), Put("/placements/b", b"")])
        await store.transact([Delete("/placements/b")])
        await store.revoke(lease)

    assert shared_etcd.ctl("get", "--prefix", prefix, "--keys-only").split() == [f"{prefix}-other/a", f"{prefix}/placements/odd"]


async def test_a_key_that_is_no_text_can_be_seen_but_not_written(shared_etcd: Etcd, store_on: StoreOn) -> None:
    prefix = f"/{uuid.uuid4()}"
    shared_etcd.ctl("put", f"{prefix}/a\udcff", "not ours")
    async with store_on(shared_etcd, prefix=prefix) as store:
        assert await keys(store, "/") == ["/a\udcff"]
        with pytest.raises(ValueError, match="utf-8"):
            await store.transact([Delete("/a\udcff")])
