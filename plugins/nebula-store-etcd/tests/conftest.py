import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.store import EtcdStore
from nebula_store_etcd.testing import Etcd, running

pytest.register_assert_rewrite("nebula_core.testing.store")


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One server for all tests that leave it as it is; each uses a prefix of its own."""
    with running(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def store_on() -> Callable[..., EtcdStore]:
    """A store on these servers, to be opened."""

    def make(*members: Etcd, **settings: Any) -> EtcdStore:
        table = {"endpoints": tuple(member.endpoint for member in members), **settings}
        return EtcdStore(EtcdSettings(**table), logging.getLogger("test"), time.monotonic)

    return make
