"""Owns the audit chain as a calculation: how one entry holds the one before it, and what is wrong with a list of them.

Never reads or writes anything: the server keeps the entries, and the command line checks them by itself, with this
same code. An entry's hash is the SHA-256 of the hash before it and of the entry as canonical JSON in ASCII, so
whoever alters, removes, inserts or reorders one must make all later ones anew, and whoever has seen the newest hash
sees that. Numbers begin at 1 and have no gaps.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

GENESIS = bytes(32)
"""What the first entry holds in place of a hash before it."""
OK = "ok"
"""The outcome of what was done; every other outcome is the code of the refusal."""
LONGEST = {"actor": 80, "address": 45, "action": 64, "target": 200, "outcome": 64, "detail": 400}
"""Most characters of each text: an entry stays below two kilobytes, whatever somebody sent."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Who did what, from where, to what, and how it ended. `time` in Unix seconds; `hash` in lower-case hex."""

    id: int
    time: int
    actor: str
    address: str
    action: str
    target: str
    outcome: str
    detail: str
    hash: str = ""

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> "Entry":
        """An entry as it travels (`time` is Unix seconds there as well); ValueError for anything else."""
        names = cls.__dataclass_fields__
        if not isinstance(item, Mapping) or item.keys() != names.keys():
            raise ValueError("not an entry of the audit chain")
        numbers = all(type(item[name]) is int for name in ("id", "time"))
        if not numbers or not all(isinstance(item[name], str) for name in names.keys() - {"id", "time"}):
            raise ValueError("not an entry of the audit chain")
        return cls(**item)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a check: how many entries hold, the newest of them, and the first finding ("" if all hold)."""

    entries: int
    last: int
    hash: str
    finding: str = ""


def short(name: str, text: str) -> str:
    """A text as an entry keeps it: cut, and without what is no text at all (lone surrogates)."""
    clean = text.encode("utf-8", "replace").decode()
    limit = LONGEST[name]
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def link(before: bytes, entry: Entry) -> bytes:
    """The hash of an entry after one with the hash `before`."""
    fields = asdict(entry)
    del fields["hash"]
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(before + body.encode("ascii")).digest()


def check(
    entries: Iterable[Entry], after: int = 0, before: bytes = GENESIS, known: Mapping[int, str] | None = None
) -> Verdict:
    """Check entries in their order, the first of which follows number `after` with the hash `before`.

    `known` are hashes by number that were seen earlier, elsewhere: an entry there with another hash was made anew.
    """
    count, last = 0, after
    for entry in entries:
        finding = ""
        if entry.id != last + 1:
            finding = f"entry {last + 1} is missing: {entry.id} follows {last}"
        elif link(before, entry).hex() != entry.hash:
            finding = f"entry {entry.id} was altered, or the one before it was"
        elif known and known.get(entry.id, entry.hash) != entry.hash:
            finding = f"entry {entry.id} is not the one that was seen earlier: the chain was made anew"
        if finding:
            return Verdict(count, last, before.hex(), finding)
        count, last, before = count + 1, entry.id, bytes.fromhex(entry.hash)
    if known and (newest := max(known)) > last:
        return Verdict(count, last, before.hex(), f"entry {newest}, which was seen earlier, is gone")
    return Verdict(count, last, before.hex())
