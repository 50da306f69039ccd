"""The etcd that the client talks to, in place of a member that `nebula_store_etcd` talks to itself."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from nebula_store_etcd import faults
from nebula_store_etcd.member import Member
from nebula_store_etcd.messages import LEASE_KEEP_ALIVE, Method

from nebula_core import StoreUnavailable
from nebula_store_etcd3.client import SERVICES, AuthStub, Etcd3Client
from nebula_store_etcd3.settings import Etcd3Settings

_OPTIONS = (
    ("grpc.keepalive_time_ms", 7_000),  # with the next: a server that hangs is noticed within 11 s
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # a transaction is sent once
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_STUBS = {"KV": "kvstub", "Lease": "leasestub", "Auth": "auth_stub"}
_SERVICE_OF = {method.path: service for service, methods in SERVICES.items() for method in methods}


class Etcd3Member(Member):
    """Makes calls by the client, each in one of `[store_etcd3] calls` threads. Streams, of watches and keep-alives, stay as they are.

    The client gets its token with each call, since by itself it logs in once and never again. Errors are those of `faults`.
    """

    def __init__(self, settings: Etcd3Settings, credentials: grpc.ChannelCredentials | None) -> None:
        [address] = settings.addresses
        super().__init__(address, credentials, settings.timeout_s)
        self._settings = settings
        self._state = grpc.ChannelConnectivity.IDLE
        self._client = _client(settings, address)
        self._client.channel.subscribe(self._note)
        self._threads = ThreadPoolExecutor(settings.calls, thread_name_prefix="etcd3")

    @property
    def is_connected(self) -> bool:
        """Whether the client is connected."""
        return self._state is grpc.ChannelConnectivity.READY

    async def ask(self, method: Method, request: Any, token: str) -> Any:
        """One question, one answer."""
        if method is LEASE_KEEP_ALIVE or method.path not in _SERVICE_OF:
            return await super().ask(method, request, token)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, method, request, token)
        except grpc.RpcError as error:
            raise faults.of(error.code(), error.details() or "", self.address) from error
        except (ValueError, RuntimeError) as error:  # what gRPC and the threads say once they are closed
            raise StoreUnavailable(f"the connection to etcd is closed: {error}") from error

    async def close(self) -> None:
        """Close the connections, and end all calls over them."""
        self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await super().close()

    def _ask(self, method: Method, request: Any, token: str) -> Any:
        call = getattr(getattr(self._client, _STUBS[_SERVICE_OF[method.path]]), method.path.rpartition("/")[2])
        return call(request, self._settings.timeout_s, metadata=(("token", token),) if token else ())

    def _note(self, state: grpc.ChannelConnectivity) -> None:
        self._state = state


def _client(settings: Etcd3Settings, address: str) -> Any:
    host, _, port = address.rpartition(":")
    files = {"ca_cert": settings.ca_cert, "cert_cert": settings.cert, "cert_key": settings.key}
    given = {name: str(path) for name, path in files.items() if path is not None}
    client = Etcd3Client(f"dns:///{host}", int(port), timeout=settings.timeout_s, grpc_options=_OPTIONS, **given)
    client.auth_stub = AuthStub(client.channel)  # which it makes only where it logs in itself
    return client
