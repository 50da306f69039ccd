"""TLS and mTLS, and what is said when the two sides do not fit."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

from nebula_core import StoreError, StoreUnavailable
from nebula_core.testing.store import put

StoreOn = Callable[..., EtcdStore]
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the command openssl makes the certificates")


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.cert, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        self._openssl("req", "-x509", *self._new_key(self._key), "-out", self.cert, "-subj", f"/CN={name}", "-days", "1")

    def sign(self, name: str, address: str = "IP:127.0.0.1", days: int = 1) -> dict[str, Path]:
        cert, key, request = (self.folder / f"{self.name}-{name}.{ending}" for ending in ("crt", "key", "csr"))
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName={address}\n")
        self._openssl("req", *self._new_key(key), "-out", request, "-subj", f"/CN={name}")
        authority = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        self._openssl("x509", "-req", "-in", request, "-out", cert, "-days", days, *authority)
        return {"cert": cert, "key": key}

    def _new_key(self, path: Path) -> tuple[Any, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path

    def _openssl(self, *arguments: Any) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "ours")


@pytest.fixture(scope="module")
def other(authority: Authority) -> Authority:
    return Authority(authority.folder, "other")


def server(folder: Path, cert: dict[str, Path], *more: str) -> Any:
    return running(folder, ["--cert-file", str(cert["cert"]), "--key-file", str(cert["key"]), *more], tls=True)


@pytest.fixture(scope="module")
def etcd(authority: Authority) -> Iterator[Etcd]:
    with server(authority.folder / "tls", authority.sign("etcd")) as etcd:
        yield etcd


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[Etcd]:
    """An etcd that asks clients for a certificate."""
    with server(authority.folder / "mtls", authority.sign("etcd"), "--client-cert-auth", "--trusted-ca-file", str(authority.cert)) as etcd:
        yield etcd


async def refusal(store: EtcdStore) -> str:
    """Why a store cannot be opened: for good, not for the moment."""
    with pytest.raises(StoreError) as caught:
        async with store:
            pass
    assert not isinstance(caught.value, StoreUnavailable)
    return str(caught.value)


async def test_the_connection_is_encrypted(etcd: Etcd, authority: Authority, store_on: StoreOn) -> None:
    async with store_on(etcd, ca_cert=authority.cert) as store:
        revision = await put(store, "/a", b"")
        async with store.watch("/", revision - 1) as batches:
            assert (await anext(batches)).revision == revision


async def test_both_sides_may_show_certificates(mutual: Etcd, authority: Authority, store_on: StoreOn) -> None:
    async with store_on(mutual, ca_cert=authority.cert, **authority.sign("nebula")) as store:
        await put(store, "/a", b"")


async def test_a_server_of_another_authority_is_not_trusted(etcd: Etcd, other: Authority, store_on: StoreOn) -> None:
    for trusted in (other.cert, None):
        assert "[store_etcd] ca_cert" in await refusal(store_on(etcd, ca_cert=trusted))


async def test_a_certificate_that_has_expired_is_called_so(authority: Authority, store_on: StoreOn, tmp_path: Path) -> None:
    with server(tmp_path, authority.sign("expired", days=-1)) as etcd:
        assert "has expired" in (await refusal(store_on(etcd, ca_cert=authority.cert))).split("(")[0]


async def test_a_certificate_for_another_name_is_not_trusted(authority: Authority, store_on: StoreOn, tmp_path: Path) -> None:
    with server(tmp_path, authority.sign("elsewhere", "DNS:etcd.example")) as etcd:
        assert "[store_etcd] endpoints" in await refusal(store_on(etcd, ca_cert=authority.cert))


async def test_a_missing_or_foreign_certificate_is_named(mutual: Etcd, authority: Authority, other: Authority, store_on: StoreOn) -> None:
    for cert in ({}, other.sign("nebula")):
        assert "[store_etcd] cert and key" in await refusal(store_on(mutual, ca_cert=authority.cert, **cert))


async def test_tls_to_a_server_without_it_is_named(shared_etcd: Etcd, store_on: StoreOn) -> None:
    assert "http://" in await refusal(store_on(endpoints=(shared_etcd.endpoint.replace("http", "https"),)))


async def test_no_tls_to_a_server_with_it_is_a_server_that_does_not_answer(etcd: Etcd, store_on: StoreOn) -> None:
    async with store_on(endpoints=(etcd.endpoint.replace("https", "http"),)) as store:
        with pytest.raises(StoreUnavailable, match="https://"):
            await store.get("/a")


async def test_files_that_are_no_certificates_are_named(etcd: Etcd, authority: Authority, store_on: StoreOn, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage")
    assert "[store_etcd] ca_cert" in await refusal(store_on(etcd, ca_cert=garbage))
    assert "[store_etcd] ca_cert" in await refusal(store_on(etcd, ca_cert=tmp_path / "missing"))
    pair = {"cert": authority.sign("one")["cert"], "key": authority.sign("two")["key"]}
    assert "[store_etcd] cert and key" in await refusal(store_on(etcd, ca_cert=authority.cert, **pair))
