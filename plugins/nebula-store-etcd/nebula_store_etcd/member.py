"""One member of the cluster: a connection that pings, and the two kinds of calls over it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from nebula_store_etcd import messages
from nebula_store_etcd.faults import Silent, translated
from nebula_store_etcd.messages import LEASE_KEEP_ALIVE, Method

_OPTIONS = [
    # A member that hangs is noticed within 11 s. etcd allows a ping every 5 s. gRPC heeds the second key, and not the one of that name
    # that its documentation gives; without it a connection is given up only after a minute.
    ("grpc.keepalive_time_ms", 7_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # gRPC waits for up to two minutes otherwise
    ("grpc.max_receive_message_length", -1),  # a listing comes in one message
    ("grpc.max_send_message_length", -1),  # how large a write may be is etcd's to say
    ("grpc.enable_retries", 0),  # a transaction is sent once
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not for etcd
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),  # a store that is opened anew connects anew
]


class Stream:
    """A call that etcd goes on answering."""

    def __init__(self, call: Any, address: str) -> None:
        self.address = address
        self._call = call

    async def send(self, request: Any) -> None:
        """Send a message."""
        with translated(self.address):
            await self._call.write(request)

    async def read(self) -> Any:
        """The next message. If this is cancelled, the call has ended."""
        with translated(self.address):
            answer = await self._call.read()
        if answer is grpc.aio.EOF:
            raise Silent(f"etcd at {self.address} ended the call")
        return answer

    def close(self) -> None:
        """End the call."""
        self._call.cancel()


class Member:
    """The etcd at `address`; `timeout_s` is how long it may take to answer. Errors are those of `faults`."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s
        target = f"dns:///{address}"
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection to it."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def ask(self, method: Method, request: Any, token: str) -> Any:
        """One question, one answer."""
        if method is LEASE_KEEP_ALIVE:
            stream, answer = await self.open(method, request, token)
            stream.close()
            return answer
        call = self._channel.unary_unary(method.path, _serialize, method.response.FromString)
        with translated(self.address):
            return await call(request, timeout=self._timeout_s, metadata=_metadata(token))

    async def open(self, method: Method, request: Any, token: str) -> tuple[Stream, Any]:
        """Send the first message of a stream; return the stream and its first answer. It ends when the member loses its leader."""
        call = self._channel.stream_stream(method.path, _serialize, method.response.FromString)
        stream = Stream(call(metadata=(("hasleader", "true"), *_metadata(token))), self.address)
        try:
            async with asyncio.timeout(self._timeout_s):
                await stream.send(request)
                return stream, await stream.read()
        except TimeoutError:
            stream.close()
            raise Silent(f"etcd at {self.address} did not answer within [store_etcd] timeout_s") from None
        except BaseException:
            stream.close()
            raise

    async def log_in(self, user: str, password: str) -> str:
        """A new token."""
        return str((await self.ask(messages.AUTHENTICATE, messages.AuthenticateRequest(name=user, password=password), "")).token)

    async def close(self) -> None:
        """Close the connection and end all calls over it."""
        await self._channel.close()


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("token", token),) if token else ()
