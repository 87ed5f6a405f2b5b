"""Owns publishing: signed metadata and bundles come in, are verified with the device's own code, and become visible
at once.

    an upload lies in quarantine -> form, manifest, pack -> the file's metadata must follow what is held
    (compare-and-swap) -> files to their final names -> rows, snapshot and timestamp in one transaction

A published path never changes its bytes. Files that a kill left without their rows were never published, and are
replaced by the next upload of the same bundle."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from beamfleet_bundles import chain, durable, repository
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_product, target_path
from beamfleet_bundles.publication import Publication, verify_publication

from beamfleet_server.clock import Clock
from beamfleet_server.data import DataDirectory
from beamfleet_server.errors import ServerError
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.store import Store, bundles, metadata
from beamfleet_server.store.acts import about
from beamfleet_server.store.bundles import NewBundle, PublishedBundle
from beamfleet_server.store.database import Change, Transaction
from beamfleet_server.store.events import NewEvent, append

SIGNED_HERE = ("snapshot", "timestamp")
METADATA_CODES = {"trust.conflict": "metadata.conflict", "trust.incomplete": "metadata.incomplete"}
BUNDLE_CODES = METADATA_CODES | {
    "trust.signature": "bundle.untrusted",
    "trust.mismatch": "bundle.untrusted",
    "trust.unknown_target": "bundle.unsigned",
}


@dataclass(frozen=True, slots=True)
class Published:
    """What an upload came to; `already` if the same bundle was there."""

    bundle: PublishedBundle
    already: bool


class Publisher:
    """Takes metadata and bundles."""

    def __init__(self, store: Store, data: DataDirectory, keys: OnlineKeys, clock: Clock) -> None:
        self._store = store
        self._data = data
        self._keys = keys
        self._clock = clock

    def manifest_path(self, manifest: str) -> Path:
        """Where the manifest with this hash lies."""
        return self._data.manifests / f"{manifest}.json"

    def pack_path(self, manifest: str) -> Path:
        """Where the full pack of the manifest with this hash lies."""
        return self._data.packs / f"{manifest}.full"

    def take_metadata(self, new: Mapping[str, bytes]) -> None:
        """Accept new versions of root, targets and products (by role), then sign snapshot and timestamp.

        Errors: `metadata.conflict`, and what `publication.verify_publication` refuses.
        """
        with _told_as_server(METADATA_CODES):
            self._store.database.write(self._accepting(new))

    def create_product(self, name: str, targets: bytes, product: bytes) -> None:
        """Accept a further product: targets that delegate to it, and its first metadata. Error `product.exists`."""
        if check_product(name) in {known for known, _ in self._store.metadata.products()}:
            raise ServerError("product.exists", f"there is a product {name} already")
        self.take_metadata({"targets": targets, name: product})

    def take_bundle(self, upload: Path) -> Published:
        """Publish the bundle in the file `upload` in quarantine; the caller deletes what is left of it.

        Errors: `bundle.*`, `manifest.*`, `metadata.conflict`, `trust.*`.
        """
        with _told_as_server(BUNDLE_CODES, upload):
            bundle = Bundle.open(upload)
            sha256 = hashlib.sha256(bundle.manifest_bytes).hexdigest()
            manifest = bundle.manifest
            about(f"{manifest.product}/{manifest.version}/{manifest.target}", f"manifest {sha256}")
            if held := self._held(bundle, sha256):
                return Published(held, already=True)
            bundle.verify()
            pack, pack_sha256 = self._extract(bundle, upload)
            try:
                return self._store.database.write(self._publishing(bundle, sha256, pack, pack_sha256))
            finally:
                pack.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Sign snapshot and timestamp again when half of their time has passed."""
        held = self._store.metadata.newest()
        if "timestamp" not in held:
            return
        now = self._now()
        ends = {
            "snapshot": chain.parse_snapshot(held["snapshot"][1]).signed.expires,
            "timestamp": chain.parse_timestamp(held["timestamp"][1]).signed.expires,
        }
        if any(expires - now < repository.LIFETIMES[role] / 2 for role, expires in ends.items()):
            self._store.database.write(lambda connection: self._sign_online(connection, {}))

    def _held(self, bundle: Bundle, sha256: str) -> PublishedBundle | None:
        manifest = bundle.manifest
        held = self._store.bundles.find(manifest.product, manifest.version, manifest.target)
        if held and held.manifest != sha256:
            raise _version_exists(held)
        return held

    def _extract(self, bundle: Bundle, upload: Path) -> tuple[Path, str]:
        pack, digest = upload.with_suffix(".pack"), hashlib.sha256()
        with pack.open("wb") as file:
            for chunk in bundle.pack_chunks():
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return pack, digest.hexdigest()

    def _accepting(self, new: Mapping[str, bytes]) -> Change[Publication]:
        def change(connection: Transaction) -> Publication:
            now = self._now()
            held = {role: body for role, (_, body) in metadata.newest(connection).items() if role not in SIGNED_HERE}
            publication = verify_publication(held, new, self._keys.public, now)
            self._sign_online(connection, new)
            metadata.add_products(connection, sorted(publication.chain.products), self._clock())
            return publication

        return change

    def _publishing(self, bundle: Bundle, sha256: str, pack: Path, pack_sha256: str) -> Change[Published]:
        def change(connection: Transaction) -> Published:
            manifest = bundle.manifest
            if held := bundles.find(connection, manifest.product, manifest.version, manifest.target):
                if held.manifest != sha256:
                    raise _version_exists(held)
                return Published(held, already=True)
            path = target_path(manifest.product, manifest.version, manifest.target)
            document = _product_document(bundle)
            new = {manifest.product: document}
            if metadata.newest(connection).get(manifest.product, (0, b""))[1] == document:
                new = {}
            facts = self._accepting(new)(connection).chain.facts.get(path)
            if facts is None:
                raise BundleError(
                    "trust.unknown_target", f"the bundle's metadata does not sign {path}", "sign the bundle again"
                )
            facts.verify(bundle.manifest_bytes)
            self._place(bundle, sha256, pack)
            row = NewBundle(
                product=manifest.product,
                version=manifest.version,
                target=manifest.target,
                counter=facts.custom.counter,
                manifest=sha256,
                manifest_size=len(bundle.manifest_bytes),
                pack_size=bundle.pack_size,
                pack_sha256=pack_sha256,
                unpacked=manifest.unpacked,
                release={key: getattr(manifest.release, key) for key in ("name", "kind", "erts", "otp")},
                created=self._clock(),
            )
            bundles.add(connection, row)
            detail = f"{row.product} {row.version} for {row.target}"
            append(self._store.database, connection, [NewEvent(row.created, "bundle", "published", detail)])
            published = bundles.find(connection, row.product, row.version, row.target)
            if published is None:
                raise ServerError("server.internal", "a bundle is not there after it was published")
            return Published(published, already=False)

        return change

    def _place(self, bundle: Bundle, sha256: str, pack: Path) -> None:
        """Give the files their final names; nobody is told these before the rows are committed."""
        durable.replace(self.manifest_path(sha256), bundle.manifest_bytes)
        pack.rename(self.pack_path(sha256))
        durable.sync_directory(self._data.packs)

    def _sign_online(self, connection: Transaction, new: Mapping[str, bytes]) -> None:
        """Keep the new documents and sign a snapshot and a timestamp over what is then held."""
        held = metadata.newest(connection)
        documents = {role: (_version(role, body), body) for role, body in new.items()}
        bodies = {role: body for role, (_, body) in (held | documents).items()}
        now = self._now()
        signed = {role: body for role, body in bodies.items() if role not in (*SIGNED_HERE, "root")}
        snapshot = repository.new_snapshot(signed, self._keys.signers["snapshot"], now, bodies.get("snapshot"))
        timestamp = repository.new_timestamp(snapshot, self._keys.signers["timestamp"], now, bodies.get("timestamp"))
        documents["snapshot"] = (chain.parse_snapshot(snapshot).signed.version, snapshot)
        documents["timestamp"] = (chain.parse_timestamp(timestamp).signed.version, timestamp)
        metadata.put(connection, documents, self._clock())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _version(role: str, body: bytes) -> int:
    return chain.parse_root(body).signed.version if role == "root" else chain.parse_targets(body, role).signed.version


def _product_document(bundle: Bundle) -> bytes:
    documents = [body for name, body in bundle.metadata.items() if name.rpartition(".")[0] == bundle.manifest.product]
    if len(documents) != 1:
        raise ServerError(
            "bundle.unsigned",
            f"the bundle has {len(documents) or 'no'} metadata of the product {bundle.manifest.product}",
            "sign it: beamfleet bundle sign FILE",
        )
    return documents[0]


def _version_exists(held: PublishedBundle) -> ServerError:
    return ServerError(
        "bundle.version_exists",
        f"{held.product} {held.version} for {held.target} is published with other content",
        "give the new content a new version; a published one never changes",
    )


@contextmanager
def _told_as_server(codes: Mapping[str, str], upload: Path | None = None) -> Iterator[None]:
    """What the bundles' code refuses gets the code under which the API documents it; no place of the server's disk."""
    try:
        yield
    except BundleError as error:
        message = error.message
        if upload is not None:
            message = message.replace(str(upload), "the upload").replace(upload.name, "the upload")
        if error.code not in codes:
            raise BundleError(error.code, message, error.hint) from error
        hint = error.hint or "sign it with the key of its product: beamfleet bundle sign FILE"
        raise ServerError(codes[error.code], message, hint) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ServerError(
            "server.disk_full", "the server has no space left", "make room in its data directory"
        ) from error
