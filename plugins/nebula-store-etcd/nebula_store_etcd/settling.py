"""Carrying out `nebula etcd users`: first all is looked at, then changed, role by role; and what is told of it."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from nebula_core import StoreError
from nebula_store_etcd import rights
from nebula_store_etcd.accounts import Accounts
from nebula_store_etcd.cluster import Cluster
from nebula_store_etcd.faults import WRONG_LOGIN, Refused
from nebula_store_etcd.settings import EtcdSettings
from nebula_store_etcd.users import ROOT, Change, Plan, look, plan, turning_on

_OFF = (
    "etcd asks nobody for a login yet, so these users protect nothing. Give every role its secrets, then run this again with "
    "--enable-auth, or `etcdctl auth enable`; whatever else uses this etcd needs a user then, too."
)
_ON = "etcd asks everybody for a login now; what was connected without one is refused from now on."


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the operator asked for."""

    roles: list[str]
    root: str
    root_password: str = field(repr=False)
    folder: Path | None
    new_passwords: bool
    enable_auth: bool
    dry_run: bool


@dataclass
class Report:
    """What has been done so far, or with `dry_run` would be."""

    order: Order
    plans: list[Plan] = field(default_factory=list)
    enabling: list[Change] = field(default_factory=list)
    asks_for_login: bool = False

    def json(self) -> str:
        """One document."""
        roles = [
            {
                "role": each.role,
                "user": each.user,
                "changes": [change.text for change in each.changes],
                "other_roles": list(each.surplus),
                **({} if self.order.dry_run else self._secret(each)),
            }
            for each in self.plans
        ]
        enabling = [change.text for change in self.enabling]
        return json.dumps(
            {"dry_run": self.order.dry_run, "roles": roles, "enabling": enabling, "asks_for_login": self.asks_for_login}, indent=2
        )

    def text(self) -> str:
        """What a person reads."""
        lines = [line for each in self.plans for line in self._lines(each)]
        lines += [f"# would {change.text}" if self.order.dry_run else f"# done: {change.text}" for change in self.enabling]
        if self.plans and not self.asks_for_login:
            lines.append(f"# {_OFF}")
        elif self.enabling and not self.order.dry_run:
            lines.append(f"# {_ON}")
        return "\n".join(lines)

    def _lines(self, one: Plan) -> list[str]:
        said = "would" if self.order.dry_run else "done:"
        lines = [f"# {one.role}: the user {one.user}", *(f"#   {said} {change.text}" for change in one.changes)]
        if not one.changes:
            lines.append("#   is as it should be")
        if one.surplus:
            lines.append(f"#   has other roles, which may let it do more than it should: {', '.join(one.surplus)}")
        if self.order.dry_run:
            return [*lines, ""]
        if one.password is None:
            return [*lines, "#   keeps its password, which only its .secrets.toml tells; --new-passwords replaces it", ""]
        if self.order.folder is not None:
            return [*lines, f"#   its secrets are in {_file(self.order.folder, one)}", ""]
        return [*lines, f"#   into .secrets.toml beside the settings of every {one.role}:", _toml(one)]

    def _secret(self, one: Plan) -> dict[str, str]:
        if one.password is None:
            return {}
        return {"password": one.password} if self.order.folder is None else {"file": str(_file(self.order.folder, one))}


async def settle(settings: EtcdSettings, order: Order, report: Report) -> None:
    """Do what was asked for, noting in `report` what has been done. Raises `StoreError`."""
    root = settings.model_copy(update={"user": order.root, "password": SecretStr(order.root_password)})
    silent = logging.Logger("etcd users", logging.CRITICAL)  # what matters here is raised
    try:
        async with Cluster(root, silent, time.monotonic) as cluster:
            await cluster.barrier()  # an etcd that is away is waited for by roles, not by this
            await _settle(Accounts(cluster), settings.prefix, order, report)
    except Refused as error:
        reason = "etcd does not accept this password" if str(error) == WRONG_LOGIN else error
        raise StoreError(f'as the user "{order.root}": {reason}') from error


async def _settle(accounts: Accounts, prefix: str, order: Order, report: Report) -> None:
    report.asks_for_login = await accounts.are_asked_for(order.root, order.root_password)
    plans = [await _plan(accounts, role, prefix, order) for role in order.roles]
    enabling = []
    if order.enable_auth and not report.asks_for_login:
        enabling = turning_on(order.root_password, await accounts.roles_of(ROOT))
    if order.dry_run:
        report.plans, report.enabling = plans, enabling
        return
    _check_free(order.folder, plans)
    for each in plans:
        await _carry_out(accounts, each.changes)
        report.plans.append(each)
        if order.folder is not None and each.password is not None:
            _write(_file(order.folder, each), _toml(each))
    await _carry_out(accounts, enabling)
    report.enabling = enabling
    report.asks_for_login |= bool(enabling)


async def _plan(accounts: Accounts, role: str, prefix: str, order: Order) -> Plan:
    return plan(role, prefix, await look(accounts, rights.name(role, prefix)), new_password=order.new_passwords)


async def _carry_out(accounts: Accounts, changes: list[Change] | tuple[Change, ...]) -> None:
    for change in changes:
        await change.do(accounts)


def _check_free(folder: Path | None, plans: list[Plan]) -> None:
    """Before anything is done: a password that cannot be written would be lost."""
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--out {folder} cannot be made: {error}") from error
    for file in [_file(folder, each) for each in plans if each.password is not None]:
        if file.exists():
            raise StoreError(f"{file} is there already and is not overwritten: move it away, or name another --out")


def _file(folder: Path, one: Plan) -> Path:
    return folder / f"{one.role}.secrets.toml"


def _toml(one: Plan) -> str:
    return f'[store_etcd]\nuser = "{one.user}"\npassword = "{one.password}"\n'


def _write(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as secret:
        secret.write(text)
