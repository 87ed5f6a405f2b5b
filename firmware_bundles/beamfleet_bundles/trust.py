"""Owns what a device trusts over the network: a durable updater on python-tuf behind a port that fetches.

    Updater(...)    the root given here is the anchor; cached roots follow it
      .refresh()    newer roots, timestamp, snapshot, targets; then the high-water marks
      .target(path) the product role that may speak for `path`, and its facts; nothing is downloaded but metadata
      .targets      the verified top targets metadata, with the director's keys (`assignment.verify`)

It opens no connection (the port does), downloads no target and knows no device. python-tuf does the verification; what
it does not do is done here: fsync before anything relies on a file, marks that outlive a torn cache, a clock that comes
in, no write where nothing has changed, errors with a code. One process at a time may use a directory.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, UpdaterConfig
from tuf.ngclient import Updater as TufUpdater

from beamfleet_bundles import chain, durable
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


def reference_time(now: datetime, build_time: int = 0, signed_time: int = 0) -> datetime:
    """The time to hold expiry against: the clock, but not before `build_time` nor an assignment's `signed_time`.

    Both in Unix seconds, 0 for none. A clock that runs ahead is not pulled back: it can only refuse.
    """
    return max(now, datetime.fromtimestamp(max(build_time, signed_time), UTC))


class Updater:
    """One check for updates; make a new one for the next. Errors have `trust.*` codes.

    metadata_dir: made if missing; holds `root.json`, `timestamp.json`, `snapshot.json`, `targets.json` and `ROLE.json`
    exactly as served, `root_history/` and `high-water`. root: the bytes of the embedded root, the anchor of all trust.
    now, build_time, signed_time: see `reference_time`.
    """

    def __init__(
        self, metadata_dir: Path, fetch: Fetch, root: bytes, now: datetime, *, build_time: int = 0, signed_time: int = 0
    ) -> None:
        self._directory = metadata_dir
        with chain.translated("the trusted root"):
            metadata_dir.mkdir(parents=True, exist_ok=True)
            self._client = _Client(metadata_dir, _Fetcher(fetch), root, reference_time(now, build_time, signed_time))
        self._refreshed = False
        self._failure: BeamfleetError | None = None

    def refresh(self) -> None:
        """Brings the top-level roles up to date, once per updater; all of it is durable afterwards."""
        if self._failure:
            raise self._failure
        if not self._refreshed:
            try:
                self._refresh()
            except BeamfleetError as error:
                self._failure = error
                raise
            self._refreshed = True

    def _refresh(self) -> None:
        with chain.translated("metadata"):
            self._client.refresh()
        marks = HighWater.load(self._directory)
        marks.check(self._client.root, self._client.timestamp, self._client.snapshot, self._client.targets)
        with chain.translated("the high-water marks"):
            self._client.marks().store(self._directory)

    @property
    def targets(self) -> Targets:
        """The verified top-level targets metadata; refreshes first if that has not been done."""
        self.refresh()
        return self._client.targets

    @property
    def versions(self) -> dict[str, int]:
        """The versions of the top-level roles; refreshes first if that has not been done."""
        self.refresh()
        client = self._client
        trusted = (client.root, client.timestamp, client.snapshot, client.targets)
        return {signed.type: signed.version for signed in trusted}

    def find(self, path: str) -> TargetFile | None:
        """The TUF target `path` as its role signs it, None if no role that may sign it does; refreshes first."""
        self.refresh()
        with chain.translated(f"the role of {path}"):
            return self._client.get_targetinfo(path)

    def target(self, path: str) -> Facts:
        """The facts of the manifest at `PRODUCT/VERSION/TARGET/manifest`; errors `trust.unknown_target`, `name.*`."""
        parse_target_path(path)
        target = self.find(path)
        if target is None:
            raise BundleError(
                "trust.unknown_target", f"no product role signs {path}", "publish its bundle, then look again"
            )
        return read_facts(path, target.length, target.hashes, target.custom)


class _Client(TufUpdater):
    """python-tuf's client with a clock, durable files and no needless writes.

    It leans on names that python-tuf does not promise: `_persist_file`, `_update_root_symlink`, `_trusted_set`,
    `reference_time`. tests/firmware_bundles/test_trust.py goes red when one of them moves.
    """

    def __init__(self, directory: Path, fetcher: FetcherInterface, root: bytes, time: datetime) -> None:
        config = UpdaterConfig(
            root_max_length=chain.MAX_METADATA["root"],
            timestamp_max_length=chain.MAX_METADATA["timestamp"],
            snapshot_max_length=chain.MAX_METADATA["snapshot"],
            targets_max_length=chain.MAX_METADATA["targets"],
        )
        super().__init__(str(directory), "", fetcher=fetcher, config=config, bootstrap=root)
        self._trusted_set.reference_time = time

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

    def marks(self) -> HighWater:
        """What has just been accepted."""
        directory = Path(self._dir)
        return HighWater(
            self.root.version, (directory / "timestamp.json").read_bytes(), (directory / "snapshot.json").read_bytes()
        )

    def _persist_file(self, filename: str, data: bytes) -> None:
        durable.replace(Path(filename), data)

    def _update_root_symlink(self) -> None:
        link = Path(self._dir, "root.json")
        newest = Path("root_history", f"{self.root.version}.root.json")
        if link.is_symlink() and link.readlink() == newest:
            return
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
        received = bytearray()
        try:
            for chunk in self._fetch(url):
                received += chunk
                if len(received) > max_length:
                    raise DownloadLengthMismatchError(f"{url.removeprefix('/')} has more than {max_length} bytes")
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"the server has no {url.removeprefix('/')}", 404) from error
        except OSError as error:
            raise DownloadError(f"{url.removeprefix('/')}: {error}") from error
        return bytes(received)
