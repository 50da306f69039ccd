"""Settings files seed model requests: once per change of a table, so that what was changed at run time survives a restart.

`/seeds/{host}` keeps, per model, a digest of what the host's file asked for last. At start, for each model:

- its table is new or differs from the digest: it is applied, over whatever stands there;
- its table is the same: nothing is done, even if the model was scaled, changed, rolled back or unloaded meanwhile;
- its table is gone from the file: the request is deleted if it is still as this host seeded it and no other host's file asks for
  the model. Else it belongs to whoever changed it, and stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from nebula_core.drafts import ATTEMPTS, CONFLICT, Change, Draft, Present, read, write
from nebula_core.errors import StoreError, WriteConflict
from nebula_core.interfaces import Entry, Store
from nebula_core.store import codec, keys
from nebula_core.types import ModelRequest, Seed

_PLAIN = msgspec.to_builtins(ModelRequest(model_uid="", engine=""))


@dataclass(frozen=True)
class Seeded:
    """What seeding did."""

    applied: dict[str, Change]
    """Models whose table is new or changed."""
    deleted: tuple[str, ...] = ()
    """Models whose table is gone, and with it the request."""
    left: tuple[str, ...] = ()
    """Models whose table is gone, but which others changed or ask for."""


async def seed(store: Store, host: str, requests: Sequence[ModelRequest], now: float) -> Seeded:
    """Apply what changed in this host's settings since the last time, all in one transaction. `now` is Unix time, seconds.

    Raises `InvalidModelRequest` if a name would stand for two models, `WriteConflict`, `StoreUnavailable`.
    """
    for _ in range(ATTEMPTS):
        seeds = (await store.list(keys.SEEDS)).entries
        seeded, draft = _decide(await read(store), seeds, host, requests, now)
        if await write(store, draft):
            return seeded
    raise WriteConflict(CONFLICT)


def _decide(present: Present, seeds: Sequence[Entry], host: str, requests: Sequence[ModelRequest], now: float) -> tuple[Seeded, Draft]:
    seen = next((entry for entry in seeds if entry.key == keys.seed(host)), None)
    old = _digests(seen)
    new = {request.model_uid: digest(request) for request in requests}
    elsewhere = {uid for entry in seeds if entry is not seen for uid in _digests(entry)}
    standing = present.readable()
    vanished = sorted(uid for uid in old.keys() - new.keys() if uid in standing)
    ours = tuple(uid for uid in vanished if uid not in elsewhere and digest(standing[uid]) == old[uid])
    draft = Draft(present)
    applied = {each.model_uid: draft.put(each, now) for each in requests if old.get(each.model_uid) != new[each.model_uid]}
    for uid in ours:
        draft.delete(uid)
    if new != old:
        draft.write(keys.seed(host), codec.encode(Seed(digests=new), over=seen.value if seen else None), seen)
    return Seeded(applied, ours, tuple(uid for uid in vanished if uid not in ours)), draft


def digest(request: ModelRequest) -> str:
    """Digest of what a request says. What it leaves at its default does not count, so that a field added later changes nothing."""
    said = {name: value for name, value in msgspec.to_builtins(request).items() if name != "created" and value != _PLAIN[name]}
    return hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=16).hexdigest()


def _digests(entry: Entry | None) -> dict[str, str]:
    if entry is None:
        return {}
    try:
        return codec.decode(Seed, entry.value).digests
    except StoreError:
        return {}  # written by a newer Nebula in another way: its tables count as new, which at worst applies them once more
