"""Owns the highest metadata that a device has accepted, kept apart from python-tuf's own cache.

python-tuf forgets what it cannot read: a `timestamp.json` of zero length after a power cut makes it accept any older
one. So the accepted documents are kept a second time, in one small durable file, as they were signed: written before
the cache, and put back into a cache that lost them (`mend`). A mark binds only while the root still vouches for the
keys that signed it: rotating them is how an owner recovers from versions that ran away (TUF specification 5.3.11), here
as in python-tuf.

A file that cannot be read counts as absent: both copies must be lost at once before anything older could pass.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tuf.api.metadata import Metadata, Root, Snapshot, T, Targets, Timestamp

from beamfleet_bundles import chain, durable
from beamfleet_bundles.errors import BundleError

FILE = "high-water"
MAX_SIZE = 4 << 20


@dataclass(frozen=True, slots=True)
class HighWater:
    """The highest version of root, and the newest accepted documents; empty bytes where there is none."""

    root: int = 0
    timestamp: bytes = b""
    snapshot: bytes = b""
    targets: bytes = b""
    """Pinned by an offline installation; dropped when a snapshot that is at least as new has been accepted."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The marks in `directory`; none if there is no file or it is damaged."""
        try:
            with (directory / FILE).open("rb") as file:
                document = json.loads(file.read(MAX_SIZE))
            return cls(
                int(document["root"]), *(str(document[role]).encode() for role in ("timestamp", "snapshot", "targets"))
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls()

    def store(self, directory: Path) -> None:
        """Makes these marks durable in `directory`; writes nothing when they are there already. Error: OSError."""
        documents = {role: getattr(self, role).decode() for role in ("timestamp", "snapshot", "targets")}
        # not as \u escapes: three times the largest documents would not fit
        text = json.dumps({"root": self.root, **documents}, ensure_ascii=False)
        durable.replace(directory / FILE, text.encode(), mode=0o600)

    def mend(self, directory: Path) -> None:
        """Puts the marks back where the cache in `directory` is torn or older, so that python-tuf knows them as well.

        Error: OSError.
        """
        parsers: dict[str, Callable[[bytes], Metadata[Any]]]
        parsers = {"timestamp": chain.parse_timestamp, "snapshot": chain.parse_snapshot}
        for role, parse in parsers.items():
            path, mark = directory / f"{role}.json", getattr(self, role)
            seen = _version(mark, parse)
            if seen and _version(_read(path), parse) < seen:
                durable.replace(path, mark)

    def check_root(self, root: Root) -> None:
        """Error `trust.rollback` if `root` is older than one that was trusted before."""
        _compare("root", root.version, self.root)

    def check_timestamp(self, root: Root, timestamp: Timestamp) -> None:
        """Error `trust.rollback` if `timestamp`, or the snapshot that it names, is older than its mark."""
        if seen := _binding(self.timestamp, chain.parse_timestamp, root):
            _compare("timestamp", timestamp.version, seen.version)
            _compare("snapshot", timestamp.snapshot_meta.version, seen.snapshot_meta.version)

    def check_snapshot(self, root: Root, snapshot: Snapshot) -> None:
        """Error `trust.rollback` if a role in `snapshot` is older than in its mark, or gone."""
        if seen := _binding(self.snapshot, chain.parse_snapshot, root):
            for name, meta in seen.meta.items():
                offered = snapshot.meta[name].version if name in snapshot.meta else 0
                _compare(name.removesuffix(".json"), offered, meta.version)

    def check_targets(self, root: Root, targets: Targets) -> None:
        """Error `trust.rollback` if `targets` is older than the one that an offline installation brought."""
        if seen := _binding(self.targets, chain.parse_top_targets, root):
            _compare("targets", targets.version, seen.version)

    def pinned(self, root: Root, targets: bytes) -> Self:
        """These marks after an offline installation that trusted `root` and `targets`."""
        return replace(self, root=max(self.root, root.version), targets=targets)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _version(data: bytes, parse: Callable[[bytes], Metadata[Any]]) -> int:
    """The version that `data` claims, unverified; 0 if it is not such a document."""
    try:
        return int(parse(data).signed.version) if data else 0
    except BundleError:
        return 0


def _binding(mark: bytes, parse: Callable[[bytes], Metadata[T]], root: Root) -> T | None:
    """The document of a mark if `root` still vouches for it."""
    if not mark:
        return None
    try:
        document = parse(mark)
        with chain.translated("a mark"):
            root.verify_delegate(document.signed.type, document.signed_bytes, document.signatures)
    except BundleError:
        return None
    return document.signed


def _compare(role: str, offered: int, seen: int) -> None:
    if offered < seen:
        raise BundleError(
            "trust.rollback",
            f"{role} {offered or 'nothing'} is offered where version {seen} was trusted before",
            "the server lags behind, or somebody replays old metadata",
        )
