"""What etcd and gRPC report, as errors of the store. They are told apart by what is to be done about them:

    StoreUnavailable
    ├── Silent           this member does not answer; another one may
    │   └── Mismatch     its TLS and ours do not fit
    └── LoginNeeded      the token has ended, or there was none; nothing has been done
    StoreError
    ├── Refused          the settings are wrong, and waiting mends nothing
    │   └── Denied       the user lacks a right
    ├── NoUsers          etcd has no users to log in as
    └── Absent           there is no such user or role

A message names the setting to look at.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from nebula_core import Compacted, LeaseLost, StoreError, StoreUnavailable


class Silent(StoreUnavailable):
    """This member does not answer; another one may."""


class Mismatch(Silent):
    """The TLS of this member and that of the settings do not fit together."""


class LoginNeeded(StoreUnavailable):
    """The call was refused for want of a valid token; nothing has been done."""


class Refused(StoreError):
    """etcd refuses what the settings say."""


class Denied(Refused):
    """The user may not do this."""


class NoUsers(StoreError):
    """etcd has its authentication turned off."""


class Absent(StoreError):
    """There is no such user or role."""


_CERT = "it does not accept our certificate; set [store_etcd] cert and key to a pair that its --trusted-ca-file has signed"
_MISMATCHES = {  # the first that fits counts
    "certificate has expired": "its certificate, or that of [store_etcd] ca_cert, has expired, or the clock of this machine is wrong",
    "certificate is not yet valid": "its certificate is not valid yet; compare the clocks of the two machines",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not signed by [store_etcd] ca_cert, or without one by an authority of the system",
    "Hostname Verification": "its certificate is for another name; use one in [store_etcd] endpoints that the certificate bears",
    "_ALERT_": _CERT,
    "Unwrap failed": _CERT,  # what TLS 1.3 makes of the same alert
    "Handshake read failed": "it does not speak TLS; write http:// in [store_etcd] endpoints",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; write http:// in [store_etcd] endpoints",
}
WRONG_LOGIN = "etcd does not accept [store_etcd] user and password"
_LOGIN_NEEDED = ("invalid auth token", "user name is empty", "revision of auth store is old", "revision in header is old")
_PREAMBLE = re.compile(r"failed to connect to all addresses; last error: \w+: \S+: ")
"""What gRPC puts before the reason, with the address once more."""
_SILENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DATA_LOSS,
}


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn the errors of a call to `address` into the store's."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise of(error.code(), error.details() or "", address) from error
    except grpc.aio.UsageError as error:
        raise StoreUnavailable(f"the connection to etcd is closed: {error}") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise StoreUnavailable("the connection to etcd was closed") from None  # under the call: its task itself goes on


def of(code: grpc.StatusCode, details: str, address: str) -> StoreError:
    """The error that stands for an answer of etcd at `address`."""
    for pattern, hint in _MISMATCHES.items():
        if pattern in details:
            return Mismatch(f"etcd at {address} cannot be used: {hint} ({details})")
    if any(pattern in details for pattern in _LOGIN_NEEDED):
        return LoginNeeded(f"etcd at {address} wants a login: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Silent(f"etcd at {address} did not answer within [store_etcd] timeout_s")
    if code in _SILENT:
        hint = "; if it speaks TLS, write https:// in [store_etcd] endpoints" if "Socket closed" in details else ""
        return Silent(f"etcd at {address} does not answer: {_PREAMBLE.sub('', details)}{hint}")
    return _of_refusal(code, details, address)


def _of_refusal(code: grpc.StatusCode, details: str, address: str) -> StoreError:
    if "lease not found" in details:
        return LeaseLost("the lease has ended; what was written under it is deleted")
    if "has been compacted" in details:
        return Compacted(f"{details}; list again")
    if "database space exceeded" in details:
        return StoreUnavailable(
            f"etcd at {address} is out of space and takes no writes: compact and defragment it, then `etcdctl alarm disarm`; "
            "give it more with --quota-backend-bytes (Nebula's leader compacts to what [store_etcd] history_s says)"
        )
    if "authentication failed" in details:
        return Refused(WRONG_LOGIN)
    if "authentication is not enabled" in details:
        return NoUsers(f"etcd at {address} has no users: {details}")
    if "name not found" in details:
        return Absent(f"etcd at {address}: {details}")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return Denied(f"etcd at {address}: {details}")
    if "too large" in details or "larger than max" in details:
        return StoreError(f"etcd takes no write of this size: {details}; raise its --max-request-bytes")
    if "too many operations" in details:
        return StoreError(f"etcd takes no transaction of so many writes: {details}; raise its --max-txn-ops")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Silent(f"etcd at {address} has too much to do: {details}")
    return StoreError(f"etcd at {address} refuses: {details} ({code.name})")
