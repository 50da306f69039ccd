"""PyPI's client `etcd3`, imported beside any protobuf.

Its own messages are generated code that no protobuf since 3.20 loads. So before it is imported, its module `etcd3.etcdrpc` is put in
place here: its stubs speak the messages of `nebula_store_etcd`, which lie in a pool of their own. These are what Nebula needs of
etcd's API; the client's methods that build messages of their own (members, alarms, its transactions) do not work in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import grpc
from nebula_store_etcd import messages
from nebula_store_etcd.messages import Method

SERVICES = {
    "KV": (messages.RANGE, messages.TXN, messages.COMPACT),
    "Lease": (messages.LEASE_GRANT, messages.LEASE_REVOKE),
    "Auth": (messages.AUTHENTICATE,),
    "Watch": (),  # the client makes a watcher of it, which is left alone: while etcd is down it would keep a core busy
    "Cluster": (),
    "Maintenance": (),
}
"""Service of etcd → its calls that the client makes here."""


def _etcdrpc() -> ModuleType:
    module: Any = ModuleType("etcd3.etcdrpc", "What the client knows of etcd's API here.")
    for service, methods in SERVICES.items():
        setattr(module, f"{service}Stub", _stub(methods))
    module.Compare = SimpleNamespace(EQUAL=0, GREATER=1, LESS=2, NOT_EQUAL=3)  # read when the client is imported
    return module  # type: ignore[no-any-return]


def _stub(methods: tuple[Method, ...]) -> Callable[[grpc.Channel], Any]:
    def make(channel: grpc.Channel) -> SimpleNamespace:
        return SimpleNamespace(**{method.path.rpartition("/")[2]: _call(channel, method) for method in methods})

    return make


def _call(channel: grpc.Channel, method: Method) -> Any:
    return channel.unary_unary(method.path, lambda request: request.SerializeToString(), method.response.FromString)


AuthStub = _stub(SERVICES["Auth"])
sys.modules["etcd3.etcdrpc"] = _etcdrpc()
from etcd3 import Etcd3Client  # type: ignore[import-untyped]  # noqa: E402 - not before its messages are in place

__all__ = ["SERVICES", "AuthStub", "Etcd3Client"]
