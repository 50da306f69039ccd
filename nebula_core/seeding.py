"""Settings files seed model requests: once per change of a table, so that what was changed at run time survives a restart.

`/seeds/{host}` keeps, per model, a digest of what the host's file asked for last. At start, for each model:

- its table is new or differs from the digest: it is applied, over whatever stands there, unless that stands there because a rollback
  took back just what the table asks for: then it was applied before, by other ways than a start;
- its table is the same: nothing is done, even if the model was scaled, changed, rolled back or unloaded meanwhile;
- its table is gone from the file: the request is deleted if it is still as this host seeded it and no other host's file asks for
  the model. Else it belongs to whoever changed it, and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nebula_core.drafts import ATTEMPTS, CONFLICT, Change, Draft, Present, arguments, digest, read, write
from nebula_core.errors import StoreError, WriteConflict
from nebula_core.interfaces import Entry, Store
from nebula_core.store import codec, keys
from nebula_core.types import ModelRequest, Seed


@dataclass(frozen=True)
class Seeded:
    """What seeding did."""

    applied: dict[str, Change]
    """Models whose table is new or changed."""
    deleted: tuple[str, ...] = ()
    """Models whose table is gone, and with it the request."""
    left: tuple[str, ...] = ()
    """Models whose table is gone, but which others changed or ask for."""
    rolled_back: tuple[str, ...] = ()
    """Models whose table is new or changed, but asks for what was rolled back."""


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
    changed = [each for each in requests if old.get(each.model_uid) != new[each.model_uid]]
    rolled_back = tuple(each.model_uid for each in changed if _is_rolled_back(each, standing.get(each.model_uid)))
    applied = {each.model_uid: draft.put(each, now) for each in changed if each.model_uid not in rolled_back}
    for uid in ours:
        draft.delete(uid)
    if new != old:
        draft.write(keys.seed(host), codec.encode(Seed(digests=new), over=seen.value if seen else None), seen)
    return Seeded(applied, ours, tuple(uid for uid in vanished if uid not in ours), rolled_back), draft


def _is_rolled_back(table: ModelRequest, standing: ModelRequest | None) -> bool:
    return standing is not None and standing.rolled_back_from == arguments(table)


def _digests(entry: Entry | None) -> dict[str, str]:
    if entry is None:
        return {}
    try:
        return codec.decode(Seed, entry.value).digests
    except StoreError:
        return {}  # written by a newer Nebula in another way: its tables count as new, which at worst applies them once more
