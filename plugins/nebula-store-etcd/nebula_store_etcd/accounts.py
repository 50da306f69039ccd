"""etcd's users and roles: reading them, and changing them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nebula_store_etcd.cluster import Cluster
from nebula_store_etcd.faults import Absent, NoUsers
from nebula_store_etcd.messages import AUTHENTICATE, AuthenticateRequest, Method, message_class
from nebula_store_etcd.rights import Grant, Kind


class Accounts:
    """The accounts of a cluster, as whoever its settings log in as may see and change them. Raises `StoreError`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def are_asked_for(self, user: str, password: str) -> bool:
        """Whether etcd has its authentication turned on; `user` is somebody who may log in then."""
        try:
            await self._cluster.call(AUTHENTICATE, AuthenticateRequest(name=user, password=password))
        except NoUsers:
            return False
        return True

    async def roles_of(self, user: str) -> frozenset[str] | None:
        """The roles of a user; `None` if there is no such user."""
        try:
            return frozenset((await self._call("AuthUserGet", name=user)).roles)
        except Absent:
            return None

    async def grants_of(self, role: str) -> frozenset[Grant] | None:
        """The rights of a role; `None` if there is no such role."""
        try:
            answer = await self._call("AuthRoleGet", role=role)
        except Absent:
            return None
        return frozenset(_grant(each) for each in answer.perm)

    async def add_user(self, user: str, password: str) -> None:
        """Make a user without any role."""
        await self._call("AuthUserAdd", name=user, password=password)

    async def set_password(self, user: str, password: str) -> None:
        """Change a user's password; tokens had with the old one end."""
        await self._call("AuthUserChangePassword", name=user, password=password)

    async def give_role(self, user: str, role: str) -> None:
        """Give a user one more role."""
        await self._call("AuthUserGrantRole", user=user, role=role)

    async def add_role(self, role: str) -> None:
        """Make a role without any right."""
        await self._call("AuthRoleAdd", name=role)

    async def grant(self, role: str, grants: Iterable[Grant]) -> None:
        """Give a role rights; one to a range that it has a right to replaces that."""
        for each in grants:
            permission = message_class("Permission")(permType=each.kind, key=each.start, range_end=each.end)
            await self._call("AuthRoleGrantPermission", name=role, perm=permission)

    async def take(self, role: str, grants: Iterable[Grant]) -> None:
        """Take rights from a role."""
        for each in grants:
            await self._call("AuthRoleRevokePermission", role=role, key=each.start, range_end=each.end)

    async def turn_on(self) -> None:
        """From now on etcd asks everybody for a login. There must be a user `root` with the role `root`."""
        await self._call("AuthEnable")

    async def _call(self, name: str, /, **fields: Any) -> Any:
        path = f"/etcdserverpb.Auth/{name.removeprefix('Auth') if name != 'AuthEnable' else name}"
        request = message_class(f"{name}Request")(**fields)
        return await self._cluster.call(Method(path, message_class(f"{name}Response")), request)


def _grant(permission: Any) -> Grant:
    return Grant(Kind(permission.permType), permission.key, permission.range_end)
