"""Owns the list of devices as it travels: rows of the store become JSON by msgspec, in the shape of `schemas.Device`.

The list is asked for often and of many devices. Of what a device said only the few fields are read that it shows."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from beamfleet_server.clock import rfc3339

_time = lru_cache(4096)(rfc3339)
_encode = msgspec.json.Encoder().encode


class _Update(msgspec.Struct, frozen=True, gc=False):
    phase: str
    product: str
    version: str
    manifest: str
    reason: str


class _Inventory(msgspec.Struct, frozen=True, gc=False):
    unsafe_filesystem: bool = False


class _State(msgspec.Struct, frozen=True, gc=False):
    update: _Update | None
    slot: str = ""
    starts: int = 0
    cause: str = ""
    inventory: _Inventory = _Inventory()


class _Progress(msgspec.Struct, frozen=True, gc=False):
    manifest: str
    done: int
    total: int


class _Shown(msgspec.Struct, frozen=True, gc=False):
    phase: str
    product: str
    version: str
    reason: str
    done: int
    total: int


class _Standing(msgspec.Struct, frozen=True, gc=False):
    verdict: str
    time: str | None


class _Item(msgspec.Struct, frozen=True, gc=False):
    id: str
    labels: msgspec.Raw
    online: bool
    last_seen: str | None
    enrolled: str | None
    product: str
    version: str
    slot: str
    manifest: str
    phase: str
    attempt: int
    update: _Shown | None
    starts: int
    cause: str
    health: _Standing
    rollout: int | None
    unsafe_filesystem: bool
    clone: str | None
    pinned: str
    retired: str | None
    replaced_by: str


_read_state = msgspec.json.Decoder(_State | None).decode
_read_progress = msgspec.json.Decoder(_Progress | None).decode
_read_times = msgspec.json.Decoder(list[int]).decode
_UNSAID = _State(update=None)


def encode(rows: Sequence[Any], limit: int) -> bytes:
    """A page of at most `limit` of the rows of `store.devices.page`; one more than that says that others follow."""
    items = [_item(*row) for row in rows[:limit]]
    return _encode({"items": items, "next": rows[limit - 1].name if len(rows) > limit else None})


def _item(
    name: str, labels: str | None, online: int, seen: int | None, enrolled: int | None, product: str, version: str,
    manifest: str, phase: str, attempt: int, said: str | None, told: str | None, verdict: str, received: int | None,
    rollout: int | None, returns: str, pinned: str, retired: int | None, replaced_by: str,
) -> _Item:  # fmt: skip
    state = (_read_state(said) if said else None) or _UNSAID
    return _Item(
        name, msgspec.Raw((labels or "{}").encode()), bool(online), _time(seen), _time(enrolled), product, version,
        state.slot, manifest, phase, attempt, _shown(state.update, told), state.starts, state.cause,
        _Standing(verdict, _time(received)), rollout, state.inventory.unsafe_filesystem,
        _time(max(_read_times(returns))) if returns != "[]" else None, pinned, _time(retired),
        replaced_by,
    )  # fmt: skip


def _shown(update: _Update | None, told: str | None) -> _Shown | None:
    if update is None:
        return None
    progress = _read_progress(told) if told else None
    ours = progress if progress and progress.manifest == update.manifest else None
    done, total = (ours.done, ours.total) if ours else (0, 0)
    return _Shown(update.phase, update.product, update.version, update.reason, done, total)
