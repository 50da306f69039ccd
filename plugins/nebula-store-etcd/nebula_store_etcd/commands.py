"""`nebula etcd users`: a user of etcd for each role of Nebula, with the rights that it needs and no others."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nebula_core import SettingsError, StoreError
from nebula_store_etcd import rights, users
from nebula_store_etcd.settings import from_file

PASSWORD_VARIABLE = "ETCD_ROOT_PASSWORD"
_ROLES = ", ".join(rights.WRITE)


def make_group() -> typer.Typer:
    """The commands under `nebula etcd`."""
    group = typer.Typer(no_args_is_help=True)
    group.callback()(_etcd)
    group.command("users", epilog="Example: [bold]nebula etcd users --settings fleet.toml --out secrets[/]")(_users)
    return group


def _etcd() -> None:
    """Prepare an etcd for Nebula."""


def _users(
    settings: Annotated[
        Path | None, typer.Option("--settings", "-s", metavar="FILE", help="Settings file, looked for as by other commands.")
    ] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help=f"{_ROLES}; may be repeated. Without it: all.")] = None,
    root_user: Annotated[str, typer.Option(metavar="NAME", help="Whom to change etcd's users as.")] = users.ROOT,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write ROLE.secrets.toml there instead of printing it.")] = None,
    new_passwords: Annotated[bool, typer.Option("--new-passwords", help="Give users that are there new passwords, too.")] = False,
    enable_auth: Annotated[bool, typer.Option("--enable-auth", help="At the end have etcd ask everybody for a login.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Give each role of Nebula a user of etcd of its own, with the keys that it needs and no others.

    It may be run again, and changes only what differs. The root user's password is asked for, or read from ETCD_ROOT_PASSWORD.
    """
    from nebula_store_etcd.settling import Order, Report, settle  # with gRPC, which `--help` should not pay for

    if enable_auth and root_user != users.ROOT:
        raise SettingsError(f"--enable-auth works with --root-user {users.ROOT} only: etcd wants that user to be there")
    table = from_file(settings)
    order = Order(
        roles=_known(role or list(rights.WRITE)),
        root=root_user,
        root_password=_root_password(root_user),
        folder=out,
        new_passwords=new_passwords,
        enable_auth=enable_auth,
        dry_run=dry_run,
    )
    report = Report(order)
    try:
        asyncio.run(settle(table, order, report))
    finally:  # a password that was set before something went wrong must be told: nobody can read it from etcd
        if told := report.json() if as_json else report.text():
            typer.echo(told)


def _known(roles: list[str]) -> list[str]:
    for role in roles:
        if role not in rights.WRITE:
            raise SettingsError(f"--role {role}: there is no such role; they are {_ROLES}")
    return list(dict.fromkeys(roles))


def _root_password(user: str) -> str:
    if password := os.environ.get(PASSWORD_VARIABLE):
        return password
    if not sys.stdin.isatty():
        raise StoreError(f"the password of etcd's user {user} is needed: set {PASSWORD_VARIABLE}, or run this in a terminal")
    return str(typer.prompt(f"Password of etcd's user {user}", hide_input=True, err=True))
