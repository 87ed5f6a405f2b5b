"""Owns what a device trusts over the network: a durable updater on python-tuf behind a port that fetches.

    Updater(...)      the root given here is the anchor; cached roots follow it
      .refresh()      newer roots, timestamp, snapshot, targets; each behind its high-water mark
      .find(path)     the TUF target `path`, from the role that may speak for it; nothing is downloaded but metadata
      .target(path)   the same for a product's manifest, with the facts that beamfleet signs about one
      .read(path)     the bytes of a target, as signed
      .targets        the verified top targets metadata, with the director's keys (`assignment.verify`)
      .advance(time)  the director has signed a time: what has expired by then is no longer trusted

It opens no connection (the port does), takes any TUF repository, and knows no device: the shape that beamfleet gives
its metadata is held to in `chain`, `facts` and `assignment`. python-tuf does the verification; what it does not do is
done here: fsync before anything relies on a file, marks that outlive a torn cache, a clock that comes in and has a
floor, no write where nothing has changed, errors with a code. One process at a time may use a directory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, UpdaterConfig
from tuf.ngclient import Updater as TufUpdater

from beamfleet_bundles import chain, durable
from beamfleet_bundles.clock import SignedTime, reference_time
from beamfleet_bundles.errors import BeamfleetError, BundleError
from beamfleet_bundles.facts import Facts, read_facts
from beamfleet_bundles.highwater import HighWater
from beamfleet_bundles.names import parse_target_path


class Fetch(Protocol):
    """How metadata arrives; the worker's speaks HTTPS, a test's is a dictionary."""

    def __call__(self, name: str, /) -> Iterable[bytes]:
        """The bytes served as `name`, such as `timestamp.json` or `3.root.json`, already percent-encoded.

        Reading stops at the limit of the document; the port owns time limits and follows no redirect. It raises
        FileNotFoundError for what the server does not have, any other OSError for what cannot be had now, and a
        `BeamfleetError` of its own where it knows better: that one leaves the updater as it is.
        """
        ...


MAX_TARGET = 64 << 20
"""Largest target that `read` takes into memory, in bytes; a manifest has far less."""
MAX_ROOTS = 256
"""Roots that one check follows; the next check goes on where it ended."""
MAX_ROLES = 32
"""Delegated roles that are looked at for one target."""
_KEPT_IN_URLS = "/%?&=+,;:@!$'()*~"


def verify(target: TargetFile, data: bytes) -> bytes:
    """Gives `data` back if it has the length and all hashes of `target`; error `trust.mismatch`."""
    with chain.translated(target.path[:160]):
        target.verify_length_and_hashes(data)
    return data


class Updater:
    """One check for updates; make a new one for the next. Errors have `trust.*` codes.

    metadata_dir: made if missing; holds `root.json`, `timestamp.json`, `snapshot.json`, `targets.json` and `ROLE.json`
    exactly as served, `root_history/`, `high-water` and `clock`. root: the bytes of the embedded root, the anchor of
    all trust. now, build_time, signed: what `clock` makes the time of; build time 0 and nothing signed are no floor.
    """

    def __init__(
        self,
        metadata_dir: Path,
        fetch: Fetch,
        root: bytes,
        now: datetime,
        *,
        build_time: int = 0,
        signed: SignedTime = SignedTime(),  # noqa: B008 (frozen)
    ) -> None:
        with chain.translated("the trusted root"):
            metadata_dir.mkdir(parents=True, exist_ok=True)
            self._client = _Client(metadata_dir, _Fetcher(fetch), root, _Clock(now, build_time, signed))
        self._refreshed = False
        self._failure: BeamfleetError | None = None

    def refresh(self) -> None:
        """Brings the top-level roles up to date, once per updater; all of it is durable afterwards."""
        if self._failure:
            raise self._failure
        if not self._refreshed:
            try:
                with chain.translated("metadata"):
                    self._client.refresh()
            except BeamfleetError as error:
                self._failure = error
                raise
            self._refreshed = True

    @property
    def time(self) -> datetime:
        """The time that expiry is held against; refreshes first, since a newer root may free it of a signed floor."""
        self.refresh()
        return self._client.time

    @property
    def targets(self) -> Targets:
        """The verified top-level targets metadata; refreshes first if that has not been done."""
        self.refresh()
        return self._client.targets

    @property
    def versions(self) -> dict[str, int]:
        """The versions of the top-level roles; refreshes first if that has not been done."""
        self.refresh()
        return {signed.type: signed.version for signed in self._client.top_level}

    def find(self, path: str) -> TargetFile | None:
        """The TUF target `path` as its role signs it, None if no role that may sign it does; refreshes first."""
        self.refresh()
        with chain.translated(f"the role of {path[:160]}"):
            return self._client.get_targetinfo(path)

    def target(self, path: str) -> Facts:
        """The facts of the manifest at `PRODUCT/VERSION/TARGET/manifest`; errors `trust.unknown_target`, `name.*`."""
        parse_target_path(path)
        target = self._known(path)
        return read_facts(path, target.length, target.hashes, target.custom)

    def read(self, path: str, fetch: Fetch) -> bytes:
        """The verified bytes of the TUF target `path`. `fetch` gets the name that it is served under.

        Never more than the signed length is read. Errors `trust.unknown_target`, `trust.mismatch`, `trust.too_large`;
        what `fetch` raises passes through, FileNotFoundError and other OSError as well.
        """
        target = self._known(path)
        if target.length > MAX_TARGET:
            raise BundleError(
                "trust.too_large", f"{path[:160]} has {target.length} bytes; at most {MAX_TARGET} are read"
            )
        name = served_name(target, hashed=bool(self._client.root.consistent_snapshot))
        try:
            data = _received(fetch(name), name, target.length)
        except DownloadLengthMismatchError as error:
            raise BundleError("trust.too_large", f"{path[:160]}: {error}") from error
        return verify(target, data)

    def advance(self, time: int) -> None:
        """Takes Unix second `time`, signed by the director, as passed: durable, and the floor of later checks as well.

        Error `trust.expired`, and the floor stays where it was, if something that we trust has expired by then: then
        either the server's metadata is stale, or the time is a lie.
        """
        self.refresh()
        then = reference_time(self._client.time, time)
        for signed in self._client.top_level:
            chain.check_fresh(signed, signed.type, then)
        with chain.translated("the clock"):
            self._client.advance(time, then)

    def _known(self, path: str) -> TargetFile:
        target = self.find(path)
        if target is None:
            raise BundleError(
                "trust.unknown_target", f"no role signs {path[:160]}", "publish its bundle, then look again"
            )
        return target


def served_name(target: TargetFile, *, hashed: bool) -> str:
    """What `target` is served as: with a hash before its last part if the repository keeps consistent snapshots.

    A TUF path is part of a URL already; what no URL may hold is percent-encoded.
    """
    path = quote(target.path, safe=_KEPT_IN_URLS)
    if not hashed:
        return path
    digest = target.hashes.get("sha256") or next(iter(target.hashes.values()))
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{digest}.{name}"


class _Clock:
    """The reference time, which depends on the root that is trusted: see `clock`."""

    def __init__(self, now: datetime, build_time: int, signed: SignedTime) -> None:
        self._now, self._build_time, self.signed = now, build_time, signed

    def under(self, root: int) -> datetime:
        return reference_time(self._now, self._build_time, self.signed.under(root))


class _Client(TufUpdater):
    """python-tuf's client with a clock, high-water marks, durable files and no needless writes.

    It leans on names that python-tuf does not promise: `_load_root`, `_persist_metadata`, `_persist_file`,
    `_update_root_symlink`, `_trusted_set`, `reference_time`. tests/firmware_bundles/test_trust.py goes red when one of
    them moves.
    """

    def __init__(self, directory: Path, fetcher: FetcherInterface, root: bytes, clock: _Clock) -> None:
        config = UpdaterConfig(
            max_root_rotations=MAX_ROOTS,
            max_delegations=MAX_ROLES,
            root_max_length=chain.MAX_METADATA["root"],
            timestamp_max_length=chain.MAX_METADATA["timestamp"],
            snapshot_max_length=chain.MAX_METADATA["snapshot"],
            targets_max_length=chain.MAX_METADATA["targets"],
        )
        self._directory, self._clock, self._followed = directory, clock, False
        super().__init__(str(directory), "", fetcher=fetcher, config=config, bootstrap=root)
        self._trusted_set.reference_time = clock.under(self.root.version)

    @property
    def root(self) -> Root:
        return self._trusted_set.root

    @property
    def timestamp(self) -> Timestamp:
        return self._trusted_set.timestamp

    @property
    def snapshot(self) -> Snapshot:
        return self._trusted_set.snapshot

    @property
    def targets(self) -> Targets:
        return self._trusted_set.targets

    @property
    def top_level(self) -> tuple[Root, Timestamp, Snapshot, Targets]:
        return self.root, self.timestamp, self.snapshot, self.targets

    @property
    def time(self) -> datetime:
        return self._trusted_set.reference_time

    def advance(self, time: int, then: datetime) -> None:
        """Expiry is held against `then` from now on; the signed `time` behind it is kept."""
        self._trusted_set.reference_time = then
        if time > self._clock.signed.under(self.root.version):
            self._clock.signed = SignedTime(time, self.root.version)
            self._clock.signed.store(self._directory)

    def refresh(self) -> None:
        HighWater.load(self._directory).mend(self._directory)
        super().refresh()
        marks = HighWater.load(self._directory)
        marks.check_timestamp(self.root, self.timestamp)
        marks.check_snapshot(self.root, self.snapshot)
        marks.check_targets(self.root, self.targets)
        replace(marks, targets=b"").store(self._directory)

    def _load_root(self) -> None:
        self._followed = True
        super()._load_root()
        marks = HighWater.load(self._directory)
        marks.check_root(self.root)
        replace(marks, root=self.root.version).store(self._directory)
        self._trusted_set.reference_time = self._clock.under(self.root.version)

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        """The mark first: what lies in the cache is never newer than what the marks know."""
        marks = HighWater.load(self._directory)
        match rolename:
            case Timestamp.type:
                marks.check_timestamp(self.root, self.timestamp)
                replace(marks, timestamp=data).store(self._directory)
            case Snapshot.type:
                marks.check_snapshot(self.root, self.snapshot)
                replace(marks, snapshot=data).store(self._directory)
            case Targets.type:
                marks.check_targets(self.root, self.targets)
        super()._persist_metadata(rolename, data)

    def _persist_file(self, filename: str, data: bytes) -> None:
        durable.replace(Path(filename), data)

    def _update_root_symlink(self) -> None:
        link = Path(self._dir, "root.json")
        newest = Path("root_history", f"{self.root.version}.root.json")
        if link.is_symlink() and (not self._followed or link.readlink() == newest):
            return  # the anchor is no reason to point back at it, before the roots that follow it have been looked at
        made = link.with_name(".root.json.new")
        made.unlink(missing_ok=True)
        made.symlink_to(newest)
        made.replace(link)
        durable.sync_directory(link.parent)


class _Fetcher(FetcherInterface):
    """Python-tuf's idea of fetching over ours: in memory (its own fills /tmp), and never more than the limit."""

    def __init__(self, fetch: Fetch) -> None:
        self._port = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter(self._port(url.removeprefix("/")))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        name = url.removeprefix("/")
        try:
            return _received(self._fetch(url), name, max_length)
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"the server has no {name}", 404) from error
        except OSError as error:
            raise DownloadError(f"{name}: {error}") from error


def _received(chunks: Iterable[bytes], name: str, limit: int) -> bytes:
    received = bytearray()
    for chunk in chunks:
        received += chunk
        if len(received) > limit:
            raise DownloadLengthMismatchError(f"{name} has more than {limit} bytes")
    return bytes(received)
