"""etcd's messages and calls, made at import from `etcd.proto` beside this file.

The classes live in a descriptor pool of their own: in the default pool two etcd clients cannot be loaded into one process. No code
is generated, so nothing here is tied to a version of protobuf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_MESSAGE = re.compile(r"^message (\w+) \{[^\n]*\n(.*?)^\}$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^  (optional|repeated) (\w+) (\w+) = (\d+);", re.MULTILINE)
_PACKAGE = "nebula.etcd"


def _file() -> FileDescriptorProto:
    text = resources.files(__package__).joinpath("etcd.proto").read_text(encoding="utf-8")
    file = FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, body in _MESSAGE.findall(text):
        file.message_type.add(name=name, field=_fields(body))
    return file


def _fields(body: str) -> Iterator[FieldDescriptorProto]:
    for label, kind, name, number in _FIELD.findall(body):
        field = FieldDescriptorProto(name=name, number=int(number), label=FieldDescriptorProto.Label.Value(f"LABEL_{label.upper()}"))
        if kind[0].isupper():
            field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
        else:
            field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
        yield field


_pool = DescriptorPool()
_pool.Add(_file())


def message_class(name: str) -> Any:
    """The class of the messages of this name."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


KeyValue = message_class("KeyValue")
RangeRequest = message_class("RangeRequest")
PutRequest = message_class("PutRequest")
DeleteRangeRequest = message_class("DeleteRangeRequest")
RequestOp = message_class("RequestOp")
Compare = message_class("Compare")
TxnRequest = message_class("TxnRequest")
CompactionRequest = message_class("CompactionRequest")
WatchCreateRequest = message_class("WatchCreateRequest")
WatchRequest = message_class("WatchRequest")
LeaseGrantRequest = message_class("LeaseGrantRequest")
LeaseRevokeRequest = message_class("LeaseRevokeRequest")
LeaseKeepAliveRequest = message_class("LeaseKeepAliveRequest")
AuthenticateRequest = message_class("AuthenticateRequest")

CREATE, MOD = 1, 2
"""What a `Compare` looks at."""
LESS = 2
"""The result of a `Compare` that holds if etcd's number is less; not set: equal."""
DELETED = 1
"""The type of an `Event`."""


@dataclass(frozen=True)
class Method:
    """A call of etcd's API: its path, and the class of its answers."""

    path: str
    response: Any


RANGE = Method("/etcdserverpb.KV/Range", message_class("RangeResponse"))
TXN = Method("/etcdserverpb.KV/Txn", message_class("TxnResponse"))
COMPACT = Method("/etcdserverpb.KV/Compact", message_class("CompactionResponse"))
WATCH = Method("/etcdserverpb.Watch/Watch", message_class("WatchResponse"))
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", message_class("LeaseGrantResponse"))
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", message_class("LeaseRevokeResponse"))
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", message_class("LeaseKeepAliveResponse"))
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", message_class("AuthenticateResponse"))
