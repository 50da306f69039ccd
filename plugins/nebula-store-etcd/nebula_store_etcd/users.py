"""A user and a role in etcd for each role of Nebula: what there is, what is wanted, and the changes from one to the other."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from nebula_store_etcd import rights
from nebula_store_etcd.accounts import Accounts
from nebula_store_etcd.rights import Grant, Kind, shown

ROOT = "root"
"""Whom etcd wants to be there, with a role of the same name, before it asks anybody for a login."""
_PASSWORD_BYTES = 24


@dataclass(frozen=True)
class Found:
    """What etcd has under a name; `None`: no such role, no such user."""

    grants: frozenset[Grant] | None
    roles: frozenset[str] | None


@dataclass(frozen=True)
class Change:
    """Something to be done to etcd's accounts, in words and in deed."""

    text: str
    do: Callable[[Accounts], Awaitable[None]]


@dataclass(frozen=True)
class Plan:
    """What is to be done so that a role of Nebula has its user. `password` is the user's, if it is to have a new one."""

    role: str
    user: str
    password: str | None
    changes: tuple[Change, ...]
    surplus: tuple[str, ...] = ()
    """Other etcd roles of that user, which give it more than it needs."""


async def look(accounts: Accounts, name: str) -> Found:
    """What etcd has under `name`."""
    return Found(await accounts.grants_of(name), await accounts.roles_of(name))


def plan(role: str, prefix: str, found: Found, *, new_password: bool) -> Plan:
    """What is to be done for a role of Nebula; a user that is there keeps its password, unless `new_password`."""
    name = rights.name(role, prefix)
    password = secrets.token_urlsafe(_PASSWORD_BYTES) if new_password or found.roles is None else None
    changes = (*_of_role(name, rights.grants(role, prefix), found.grants), *_of_user(name, password, found.roles))
    return Plan(role, name, password, changes, tuple(sorted((found.roles or frozenset()) - {name})))


def turning_on(password: str, roles: frozenset[str] | None) -> list[Change]:
    """What is to be done so that etcd asks for logins; `roles` are those that its user `root` has, `None` if there is none."""
    return [*_of_user(ROOT, password, roles), Change("turn authentication on", lambda accounts: accounts.turn_on())]


def _of_role(name: str, wanted: frozenset[Grant], found: frozenset[Grant] | None) -> Iterator[Change]:
    if found is None:
        yield Change(f"add the role {name}", lambda accounts: accounts.add_role(name))
    have, ranges = found or frozenset(), {(grant.start, grant.end) for grant in wanted}
    more, less = wanted - have, frozenset(grant for grant in have if (grant.start, grant.end) not in ranges)
    if less:
        yield Change(f"let the role {name} no longer {_told(less)}", lambda accounts: accounts.take(name, less))
    if more:
        yield Change(f"let the role {name} {_told(more)}", lambda accounts: accounts.grant(name, more))


def _of_user(name: str, password: str | None, roles: frozenset[str] | None) -> Iterator[Change]:
    if password is not None and roles is None:
        yield Change(f"add the user {name} with a password", lambda accounts: accounts.add_user(name, password))
    elif password is not None:
        yield Change(f"give the user {name} the new password", lambda accounts: accounts.set_password(name, password))
    if name not in (roles or ()):
        yield Change(f"give the user {name} the role {name}", lambda accounts: accounts.give_role(name, name))


def _told(grants: frozenset[Grant]) -> str:
    said = {Kind.BOTH: "read and write", Kind.WRITE: "write", Kind.READ: "read"}
    ranges = {kind: sorted(shown(grant.start, grant.end) for grant in grants if grant.kind is kind) for kind in said}
    return " and ".join(f"{said[kind]} {', '.join(names)}" for kind, names in ranges.items() if names)
