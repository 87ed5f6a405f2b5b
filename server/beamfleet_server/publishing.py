"""Owns publishing: signed metadata and bundles come in, are verified with the device's own code, and become visible
at once.

    an upload lies in quarantine -> form, manifest, pack -> the file's metadata must follow what is held
    (compare-and-swap) -> files to their final names -> rows, snapshot and timestamp in one transaction

A published path never changes its bytes. Files that a kill left without their rows were never published, and are
replaced by the next upload of the same bundle.

A server that was restored from a backup is behind its devices. It signs its own roles above what they report
(`catch_up`), takes back from them what it has lost of the others (`adopt`), and asks publishers to sign above that."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from beamfleet_bundles import chain, durable, repository
from beamfleet_bundles.adoption import Adoption, verify_offer, verify_restoration
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_product, parse_target_path, target_path
from beamfleet_bundles.publication import Publication, next_version, signed_facts, verify_publication

from beamfleet_server.alarms import Alarms
from beamfleet_server.clock import Clock
from beamfleet_server.data import DataDirectory
from beamfleet_server.errors import ServerError
from beamfleet_server.keys import OnlineKeys
from beamfleet_server.store import Store, assignments, bundles, metadata, seen
from beamfleet_server.store.acts import ACTING, about
from beamfleet_server.store.bundles import NewBundle, PublishedBundle
from beamfleet_server.store.database import Change, Transaction
from beamfleet_server.store.events import NewEvent, append
from beamfleet_server.store.seen import SIGNED_HERE

SETTLED_S = 60
"""A device's word, which may be a lie, makes the server sign once in this time at most."""
LOST = "metadata.lost"
"""The alarm: what devices have is well signed, and still cannot be taken back."""
LOSSES = {
    "trust.online_key": "this server was replaced by another one; is this an old backup? see: beamfleet keys recover",
    "trust.release_changed": "there are two histories of it; publish something, which gets a version above both",
    "trust.counter": "there are two histories of it; publish something, which gets a version above both",
}
METADATA_CODES = {"trust.conflict": "metadata.conflict", "trust.incomplete": "metadata.incomplete"}
BUNDLE_CODES = METADATA_CODES | {
    "trust.signature": "bundle.untrusted",
    "trust.mismatch": "bundle.untrusted",
    "trust.unknown_target": "bundle.unsigned",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What an upload came to; `already` if the same bundle was there."""

    bundle: PublishedBundle
    already: bool


class Publisher:
    """Takes metadata and bundles."""

    def __init__(
        self, store: Store, data: DataDirectory, keys: OnlineKeys, clock: Clock, alarms: Alarms | None = None
    ) -> None:
        self.alarms = alarms or Alarms(store.events, clock)
        self._store = store
        self._data = data
        self._keys = keys
        self._clock = clock
        self._caught_up = 0
        self._development: bool | None = None

    @property
    def development(self) -> bool:
        """True while one signature alone makes a root."""
        if self._development is None:
            root = self._store.metadata.newest().get("root")
            self._development = root is not None and chain.parse_root(root[1]).signed.roles["root"].threshold == 1
        return self._development

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
        self._development = None
        self.alarms.clear(LOST)

    def restore_metadata(self, roots: Sequence[bytes], new: Mapping[str, bytes]) -> None:
        """Accept the metadata that this server has lost: all roots (the newest may be in `new`), targets and products.

        Errors: `metadata.incomplete`, and what `adoption.verify_restoration` refuses.
        """
        chained = [*roots, *([new["root"]] if "root" in new else [])]
        offered = {f"{chain.parse_root(root).signed.version}.root": root for root in chained}
        offered |= {role: body for role, body in new.items() if role != "root"}

        def change(connection: Transaction) -> None:
            held = {role: body for role, (_, body) in metadata.newest(connection).items() if role not in SIGNED_HERE}
            adoption = verify_restoration(held, offered, self._keys.public, self._now())
            if adoption.names:
                self._sign_online(connection, _adopted(adoption))
                metadata.add_products(connection, sorted(adoption.chain.products), self._clock())
                assignments.outdate(connection)
                about("metadata", ", ".join(adoption.names)[:500])

        with _told_as_server(METADATA_CODES):
            self._store.database.write(change)

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
            self._store.database.write(lambda connection: self._sign_online(connection, []))

    def catch_up(self) -> list[str]:
        """Sign snapshot and timestamp above what devices have seen; the other roles in which devices are ahead."""
        held, reported = self._store.metadata.versions(), self._store.seen.highest()
        ahead = [role for role, version in reported.items() if version > held.get(role, 0)]
        if any(role in SIGNED_HERE for role in ahead):
            self._store.database.write(self._catching_up)
        return sorted(role for role in ahead if role not in SIGNED_HERE)

    def adopt(self, offered: Mapping[str, bytes], device: str) -> list[str]:
        """Take back what a device of this name keeps of signed metadata (`N.root`, `targets`, products); what of it
        was new, such as `targets 7`. Snapshot and timestamp are newer afterwards. Errors of `adoption.verify_offer`."""
        act = ACTING.get()  # the change runs where nobody acts

        def change(connection: Transaction) -> list[str]:
            held = {role: body for role, (_, body) in metadata.newest(connection).items() if role not in SIGNED_HERE}
            adoption = verify_offer(held, offered, self._keys.public, self._now())
            if not adoption.names:
                self._catching_up(connection)
                return []
            self._sign_online(connection, _adopted(adoption))
            metadata.add_products(connection, sorted(adoption.chain.products), self._clock())
            names = ", ".join(adoption.names)
            event = NewEvent(self._clock(), "metadata", "adopted", f"{names}, taken back from {device}")
            append(self._store.database, connection, [event])
            if act is not None:
                act.detail = names[:500]
            return adoption.names

        try:
            adopted = self._store.database.write(change)
        except BundleError as error:
            if error.code in LOSSES:
                self.alarms.sound(LOST, f"{device} has {error.message}: {LOSSES[error.code]}")
            raise
        if adopted:
            self._development = None
            self.alarms.clear(LOST)
            _log.warning("metadata taken back from a device", device=device, documents=adopted)
        return adopted

    def versions(self) -> dict[str, tuple[int, int, int]]:
        """Of each role the version held, the highest one that devices reported when they were ahead, the next one."""
        held, reported = self._store.metadata.versions(), self._store.seen.highest()
        following = {
            role: repository.next_version(version, self._now(), reported.get(role, 0))
            if role in SIGNED_HERE
            else next_version(role, version, reported.get(role, 0))
            for role, version in held.items()
        }
        return {role: (version, reported.get(role, 0), following[role]) for role, version in sorted(held.items())}

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
            reported = seen.highest(connection)
            publication = verify_publication(held, new, self._keys.public, now, reported=reported)
            self._sign_online(connection, [(role, _version(role, body), body) for role, body in new.items()])
            metadata.add_products(connection, sorted(publication.chain.products), self._clock())
            if _director(held.get("targets")) != _director(new.get("targets", held.get("targets"))):
                assignments.outdate(connection)
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
            newest = metadata.newest(connection)
            known = _signs(newest, path, sha256) or newest.get(manifest.product, (0, b""))[1] == document
            new = {} if known else {manifest.product: document}
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

    def _catching_up(self, connection: Transaction) -> None:
        """Sign snapshot and timestamp anew because of what a device says: not more often than once in a while."""
        now = self._clock()
        if "timestamp" in metadata.versions(connection) and not 0 <= now - self._caught_up < SETTLED_S:
            self._caught_up = now
            self._sign_online(connection, [])

    def _sign_online(self, connection: Transaction, new: Sequence[tuple[str, int, bytes]]) -> None:
        """Keep the new documents (role, version, bytes) and sign a snapshot and a timestamp over what is then held."""
        bodies = {role: body for role, (_, body) in metadata.newest(connection).items()}
        bodies |= {role: body for role, _, body in new}
        now, reported = self._now(), seen.highest(connection)
        signed = {role: body for role, body in bodies.items() if role not in (*SIGNED_HERE, "root")}
        snapshot = repository.new_snapshot(
            signed, self._keys.signers["snapshot"], now, bodies.get("snapshot"), reported.get("snapshot", 0)
        )
        timestamp = repository.new_timestamp(
            snapshot, self._keys.signers["timestamp"], now, bodies.get("timestamp"), reported.get("timestamp", 0)
        )
        own = [
            ("snapshot", chain.parse_snapshot(snapshot).signed.version, snapshot),
            ("timestamp", chain.parse_timestamp(timestamp).signed.version, timestamp),
        ]
        metadata.put(connection, [*new, *own], self._clock())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _adopted(adoption: Adoption) -> list[tuple[str, int, bytes]]:
    """Each document with its version; roots in order, the newest one last."""
    return [(role, _version(role, body), body) for role, body in adoption.documents.items()] + [
        ("root", _version("root", body), body) for body in adoption.roots
    ]


def _director(targets: bytes | None) -> list[str]:
    """The ids of the keys that may sign assignments by this targets metadata."""
    if targets is None:
        return []
    return list(chain.parse_top_targets(targets).signed.get_delegated_role(chain.DIRECTOR).keyids)


def _version(role: str, body: bytes) -> int:
    return chain.parse_root(body).signed.version if role == "root" else chain.parse_targets(body, role).signed.version


def _signs(held: Mapping[str, tuple[int, bytes]], path: str, sha256: str) -> bool:
    """True if the held metadata signs this manifest already, whatever newer or older one comes with it."""
    product, _, _ = parse_target_path(path)
    facts = signed_facts(product, {role: body for role, (_, body) in held.items()}).get(path)
    return facts is not None and facts.sha256 == sha256


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
