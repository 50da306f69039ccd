"""The members of a cluster as one: calls go to the one that answered last, and to the next where it does not."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, TypeVar

import grpc

from nebula_core import StoreUnavailable
from nebula_store_etcd import rights
from nebula_store_etcd.deeds import deed
from nebula_store_etcd.faults import WRONG_LOGIN, Denied, LoginNeeded, Mismatch, NoUsers, Refused, Silent
from nebula_store_etcd.history import Place, Trail
from nebula_store_etcd.keyspace import Keyspace
from nebula_store_etcd.member import Member, Stream
from nebula_store_etcd.messages import RANGE, TXN, WATCH, Method, RangeRequest, TxnRequest
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.tls import channel_credentials

T = TypeVar("T")

Connect = Callable[[str, grpc.ChannelCredentials | None], Member]
"""Makes the member at an address, to be closed by whoever asked for it."""
_LOGIN_PAUSE_S = 2.0
"""A login that was refused is not tried again for so long: each costs etcd a tenth of a second of CPU, on purpose."""


class Cluster:
    """A connection to etcd. `clock` gives monotonic seconds.

    Entering raises `StoreError` if etcd refuses what the settings say. If no member can be reached it only warns: every call tries anew.
    Once it has been entered, refusals too are `StoreUnavailable`: a fleet that serves goes on serving while somebody mends them.
    """

    def __init__(self, settings: EtcdSettings, logger: logging.Logger, clock: Callable[[], float], connect: Connect | None = None) -> None:
        self.trail = Trail(settings.history_s)
        self.place = Place(0, 0, 0)
        """Where in its history etcd was at its last answer; in the cluster 0 before the first."""
        self._settings = settings
        self._keyspace = Keyspace(settings.prefix)
        self._connect = connect or partial(Member, timeout_s=settings.timeout_s)
        self._logger = logger
        self._clock = clock
        self._members: deque[Member] = deque()
        self._token: str | None = None
        self._logging_in = asyncio.Lock()
        self._login_pause_until = -math.inf
        self._is_open = False

    async def __aenter__(self) -> Cluster:
        credentials = channel_credentials(self._settings)
        async with AsyncExitStack() as stack:
            members = [self._connect(address, credentials) for address in self._settings.addresses]
            for member in members:
                stack.push_async_callback(member.close)
            self._members = deque(random.sample(members, len(members)))  # so that a fleet does not use one member alone
            await self._greet()
            self._is_open = True
            stack.callback(self._mark_closed)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @property
    def size(self) -> int:
        """How many members are known."""
        return len(self._settings.endpoints)

    def check_open(self) -> None:
        """Raise `StoreUnavailable` if this has not been entered, or left."""
        if not self._is_open:
            raise StoreUnavailable("the connection to etcd is closed")

    async def call(self, method: Method, request: Any) -> Any:
        """Ask one member after the other until one answers: for what may be done twice."""
        failures: list[Silent] = []
        for member in tuple(self._members):
            try:
                answer = await self._ask(member, method, request)
            except Silent as error:
                failures.append(error)
                self._set_aside(member)
            else:
                if failures:
                    self._logger.warning("%s; going on with %s", failures[0], member.address)
                return answer
        raise self._nobody(failures)

    async def call_once(self, method: Method, request: Any) -> Any:
        """Ask one member that is connected, once: where it does not answer, nobody knows whether the write was done."""
        if not self._members[0].is_connected:
            await self.barrier()
        member = self._members[0]
        try:
            return await self._ask(member, method, request)
        except Silent:
            self._set_aside(member)
            raise

    async def barrier(self) -> Place:
        """Where etcd stands now, all members taken together. An empty transaction tells it, which needs no rights."""
        answer = await self.call(TXN, TxnRequest())
        return Place.of(answer.header)

    async def open_watch(self, request: Any) -> tuple[Stream, Any]:
        """Start a watch on the member in use; return its stream and first answer. Raises `Silent`; the next call asks another member."""
        member = self._members[0]
        try:
            return await self._authorized(member, request, lambda token: self._open_watch(member, request, token))
        except Silent:
            self._set_aside(member)
            raise

    async def _greet(self) -> None:
        """Find out what is wrong for good. What is only away may come back, as it may go at any time."""
        try:
            await self.barrier()
            await self._check_rights()
        except StoreUnavailable as error:
            self._logger.warning("etcd cannot be reached now; it is tried again with every call: %s", error)

    async def _check_rights(self) -> None:
        """Raise `Refused` if etcd wants a user that is not set, or this one may not read what every role follows.

        The empty transaction does not tell: it is open to all.
        """
        everything = self._keyspace.range("/")
        with suppress(Denied):
            await self._count(everything)
            return
        for area in rights.READ:
            await self._count(self._keyspace.range(area))

    async def _count(self, keys: tuple[bytes, bytes]) -> None:
        await self.call(RANGE, RangeRequest(key=keys[0], range_end=keys[1], count_only=True))

    async def _ask(self, member: Member, method: Method, request: Any) -> Any:
        answer = await self._authorized(member, request, lambda token: member.ask(method, request, token))
        self._note(Place.of(answer.header))
        return answer

    async def _authorized(self, member: Member, request: Any, act: Callable[[str], Awaitable[T]]) -> T:
        """Do it with the token, and once more with a new one if the old one has ended: nothing has been done then."""
        token = self._token
        try:
            if token is None and self._settings.user:
                token = await self._log_in(member, None)
            try:
                return await act(token or "")
            except LoginNeeded:
                return await act(await self._log_in(member, token))
        except Refused as error:
            refusal = Denied(self._denial(request)) if isinstance(error, Denied) else error
            raise StoreUnavailable(str(refusal)) if self._is_open else refusal from error

    async def _open_watch(self, member: Member, request: Any, token: str) -> tuple[Stream, Any]:
        stream, first = await member.open(WATCH, request, token)
        if first.canceled and not first.compact_revision:
            stream.close()
            # etcd 3.5.1 says "permission denied" of a token that has ended, too
            raise LoginNeeded(f"{first.cancel_reason}: {self._denial(request)}")
        return stream, first

    def _denial(self, request: Any) -> str:
        user = f'"{self._settings.user}" ([store_etcd] user)' if self._settings.user else "that [store_etcd] cert stands for"
        return f"the etcd user {user} may not {deed(request)}; `nebula etcd users` gives the user of each role the rights that it needs"

    async def _log_in(self, member: Member, ended: str | None) -> str:
        """A token other than the one that has ended; one login serves all who wait for it."""
        if not self._settings.user:
            raise Refused("etcd asks for a login: set [store_etcd] user, and password in .secrets.toml")
        async with self._logging_in:
            if self._token is None or self._token == ended:
                self._token = await self._new_token(member)
            return self._token

    async def _new_token(self, member: Member) -> str:
        if self._clock() < self._login_pause_until:
            raise Refused(WRONG_LOGIN)
        try:
            return await member.log_in(self._settings.user, self._settings.password.get_secret_value())
        except NoUsers as error:  # it will ask for the token once somebody runs `etcdctl auth enable`
            self._logger.warning("%s; [store_etcd] user is of no use now", error)
            return ""
        except Refused:
            self._login_pause_until = self._clock() + _LOGIN_PAUSE_S
            raise

    def _set_aside(self, member: Member) -> None:
        """Use another member from now on, unless that has happened already."""
        if self._members[0] is member:
            self._members.rotate(-1)

    def _note(self, place: Place) -> None:
        if self.place.cluster_id not in (0, place.cluster_id):
            self._logger.warning("this is another etcd cluster than before: it was restored, or [store_etcd] endpoints names several")
        self.place = place
        self.trail.note(self._clock(), place)

    def _nobody(self, failures: list[Silent]) -> Refused | StoreUnavailable:
        reasons = "; ".join(str(failure) for failure in failures)
        if not self._is_open and all(isinstance(failure, Mismatch) for failure in failures):
            return Refused(reasons)
        return StoreUnavailable(f"no member of etcd answers; check [store_etcd] endpoints, and that it runs ({reasons})")

    def _mark_closed(self) -> None:
        self._is_open = False
