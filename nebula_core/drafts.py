"""Transactions on model requests: what is there, what shall be, and how the difference is written.

Every write holds only if nobody changed what it was decided by; else it is decided anew. What was asked of a model before its last
change of arguments is kept beside its request, in the same transaction if that holds both, so that a rollback has something to go
back to; a change of numbers alone leaves that as it is. Fields that a newer Nebula put into a request are kept. That names are unique
is checked against all models that are there at that moment; two writers who give one name to two models in the very same moment are
not caught.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeVar

import msgspec

from nebula_core.errors import InvalidModelRequest, StoreError, UnknownModel, WriteConflict
from nebula_core.interfaces import MAX_OPERATIONS, Delete, Entry, Listing, Put, Store, Unchanged, Write
from nebula_core.store import codec, keys
from nebula_core.types import ModelRequest

ATTEMPTS = 5
"""How often a write is decided anew before it is given up."""
CONFLICT = "others keep changing the same models; nothing was written, try again"
NUMBERS = ("replicas", "replicas_set", "min_replicas", "max_replicas")
"""What scaling changes of a request. All else, but for its history, are its arguments."""
HISTORY = ("created", "rolled_back_from")
"""What a request says of its own past."""
_PLAIN = ModelRequest(model_uid="", engine="")

Change = Literal["created", "updated", "unchanged"]
T = TypeVar("T")


async def decide_and_write(store: Store, decide: Callable[[Present], tuple[T, Draft]], *rolled_back: str) -> T:
    """Write what `decide` makes of the requests that are there; decide anew if somebody changed one of them meanwhile.

    Of the models that are `rolled_back` it is also told what was asked before.
    """
    for _ in range(ATTEMPTS):
        outcome, draft = decide(await read(store, *rolled_back))
        if await write(store, draft):
            return outcome
    raise WriteConflict(CONFLICT)


async def read(store: Store, *rolled_back: str) -> Present:
    """The model requests; and what was asked before of those that are `rolled_back`, which is read last: it changes only with them.

    Where that is newer than its request, the request has most likely changed in between. If it stays so, a write of both has failed
    half-way, and there is nothing else to be read.
    """
    for _ in range(ATTEMPTS):
        requests = await store.list(keys.MODEL_REQUESTS)
        earlier = {uid: await store.get(keys.earlier_request(uid)) for uid in rolled_back}
        present = Present(requests, {uid: entry for uid, entry in earlier.items() if entry})
        if not any(present.is_overtaken(uid) for uid in rolled_back):
            break
    return present


async def write(store: Store, draft: Draft) -> bool:
    """Write what was drafted; False if somebody changed one of its keys meanwhile.

    Raises `InvalidModelRequest` for a name used twice, or for more models at once than a transaction holds.
    """
    draft.check_names()
    if len(draft.writes) > MAX_OPERATIONS:
        number = len(draft.writes)
        raise InvalidModelRequest(f"{number} keys would be written at once, and {MAX_OPERATIONS} can be; change fewer models at a time")
    if len(draft.writes) + len(draft.history) <= MAX_OPERATIONS:
        return await _transact(store, [*draft.writes, *draft.history], draft.conditions)
    # Of two transactions the history is the first: where the second fails, a rollback finds nothing to go back to, and nothing wrong.
    return await _transact(store, draft.history, draft.conditions) and await _transact(store, draft.writes, draft.conditions)


async def _transact(store: Store, writes: Sequence[Write], conditions: Sequence[Unchanged]) -> bool:
    return not writes or await store.transact(writes, conditions) is not None


class Present:
    """The model requests that are there; and of models that are rolled back, by model_uid, what was asked before."""

    def __init__(self, requests: Listing, earlier: Mapping[str, Entry]) -> None:
        self._entries = keys.by_model({entry.key: entry for entry in requests.entries})
        self._earlier = earlier

    def entry(self, model_uid: str) -> Entry | None:
        """The entry of a model's request, or `None`."""
        return self._entries.get(model_uid)

    def known(self, model_uid: str) -> Entry:
        """The entry of a model's request. Raises `UnknownModel`."""
        if model_uid not in self._entries:
            models = ", ".join(sorted(self._entries)) or "none"
            raise UnknownModel(f'there is no model "{model_uid}" (models: {models})')
        return self._entries[model_uid]

    def request(self, model_uid: str) -> ModelRequest:
        """A model's request. Raises `UnknownModel`, or `InvalidModelRequest` for one that somebody wrote in another way."""
        entry = self.known(model_uid)
        way_out = "load the model anew, which replaces it, or unload it"
        try:
            request = codec.decode(ModelRequest, entry.value)
        except StoreError as error:
            raise InvalidModelRequest(f"the store's key {entry.key} cannot be read: {error}; {way_out}") from error
        if request.model_uid != model_uid:
            raise InvalidModelRequest(f'the store\'s key {entry.key} holds a request for the model "{request.model_uid}"; {way_out}')
        return request

    def earlier(self, model_uid: str) -> Entry | None:
        """The entry of what was asked of a model before, or `None`."""
        return self._earlier.get(model_uid)

    def is_overtaken(self, model_uid: str) -> bool:
        """Whether what was asked of a model before was written after its request."""
        entry, earlier = self.entry(model_uid), self.earlier(model_uid)
        return entry is not None and earlier is not None and earlier.mod_revision > entry.mod_revision

    def earlier_request(self, model_uid: str) -> ModelRequest | None:
        """What was asked of a model before; `None` if that is not there, or not to be read."""
        entry = self.earlier(model_uid)
        try:
            return codec.decode(ModelRequest, entry.value) if entry else None
        except StoreError:
            return None

    def readable(self) -> dict[str, ModelRequest]:
        """All requests that this version can read, by model_uid."""
        found = {}
        for uid in self._entries:
            with suppress(InvalidModelRequest):
                found[uid] = self.request(uid)
        return found


class Draft:
    """A transaction on model requests in the making: what shall be now, and what is kept of what was asked before."""

    def __init__(self, present: Present) -> None:
        self._present = present
        self._requests = present.readable()
        self._new_names: set[str] = set()
        self.writes: list[Write] = []
        self.conditions: list[Unchanged] = []
        self.history: list[Write] = []
        """Writes that need no condition of their own: these keys change only with the requests that they belong to."""

    def put(self, request: ModelRequest, now: float, back: bool = False) -> Change:
        """Write a request, unless it says what the present one says; that one's `created` is kept.

        Fields that only a newer Nebula knows are those of the present one, or with `back` those of what was asked before it.
        """
        entry, old = self._present.entry(request.model_uid), self._requests.get(request.model_uid)
        over = self._present.earlier(request.model_uid) if back else entry
        new = msgspec.structs.replace(request, created=old.created if old else int(now))
        if old and digest(new) == digest(old):
            return "unchanged"
        self._requests[request.model_uid] = new
        self._new_names |= {new.model_uid, *new.aliases}.difference((old.model_uid, *old.aliases) if old else ())
        self.write(keys.model_request(request.model_uid), codec.encode(new, over=over.value if over else None), entry)
        if entry and old and arguments(old) != arguments(new):
            self.history.append(Put(keys.earlier_request(request.model_uid), entry.value))
        return "updated" if entry else "created"

    def delete(self, model_uid: str) -> None:
        """Delete a model's request, and what was asked before it. Raises `UnknownModel`."""
        entry = self._present.known(model_uid)
        self._requests.pop(model_uid, None)
        self.writes.append(Delete(entry.key))
        self.conditions.append(Unchanged(entry.key, entry.mod_revision))
        self.history.append(Delete(keys.earlier_request(model_uid)))

    def write(self, key: str, value: bytes, seen: Entry | None) -> None:
        """Write any key, provided that it is still as it was seen."""
        self.writes.append(Put(key, value))
        self.conditions.append(Unchanged(key, seen.mod_revision if seen else 0))

    def check_names(self) -> None:
        """Raise `InvalidModelRequest` if a name that a model is given here would stand for two models. An old clash stops no write."""
        owner: dict[str, str] = {}
        for uid, request in sorted(self._requests.items()):
            for name in self._new_names.intersection((uid, *request.aliases)):
                if owner.setdefault(name, uid) != uid:
                    raise InvalidModelRequest(f'the name "{name}" is used by two models, "{owner[name]}" and "{uid}"')


def with_numbers_of(numbers: ModelRequest, request: ModelRequest) -> ModelRequest:
    """`request` with the numbers of another."""
    return msgspec.structs.replace(request, **{name: getattr(numbers, name) for name in NUMBERS})


def arguments(request: ModelRequest) -> str:
    """Digest of all that a request says but for its numbers."""
    return digest(with_numbers_of(_PLAIN, request))


def digest(request: ModelRequest) -> str:
    """Digest of what a request says. What it leaves at its default does not count, so that a field added later changes nothing."""
    plain = msgspec.to_builtins(_PLAIN)
    said = {name: value for name, value in msgspec.to_builtins(request).items() if name not in HISTORY and value != plain[name]}
    return hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=16).hexdigest()
