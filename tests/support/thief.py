"""Somebody who has copied a server's disk: its online keys and all that it has published. Signs what these keys can.

The same hands serve for a server that is honest, where a test needs an assignment which the rollout would not give.
"""

import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from beamfleet_bundles import assignment, repository
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.names import target_path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from tests.support.interception import Interceptor, always

ONLINE = ("snapshot", "timestamp", "director")


@dataclass(frozen=True, slots=True)
class Published:
    """A release that is published, as an assignment names it."""

    path: str
    length: int
    sha256: str
    version: str


class Thief:
    """data: the server's directory; it is copied into `folder` and not touched."""

    def __init__(self, data: Path, folder: Path) -> None:
        shutil.copytree(data / "keys", folder / "keys")
        shutil.copytree(data / "ca", folder / "ca")
        self.signers = {role: _signer(folder / "keys" / f"{role}.key") for role in ONLINE}
        self._sequence = int(datetime.now(UTC).timestamp())
        with sqlite3.connect(f"file:{data / 'beamfleet.db'}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT role, version, body FROM tuf_metadata ORDER BY version").fetchall()
            bundles = database.execute("SELECT product, version, target, manifest_size, manifest FROM bundles")
            self.releases = {
                (product, version, target): Published(target_path(product, version, target), length, sha256, version)
                for product, version, target, length, sha256 in bundles
            }
        database.close()
        self.documents: dict[str, bytes] = {role: bytes(body) for role, _, body in rows}
        """The newest of each role."""

    def release(self, product: str, version: str) -> Published:
        """A published release, whatever it was built for."""
        (found,) = (each for key, each in self.releases.items() if key[:2] == (product, version))
        return found

    def assign(
        self, device: str, release: Published | None, *, attempt: int = 1, lives: timedelta = assignment.LIFETIME,
        signer: CryptoSigner | None = None, **changes: Any,
    ) -> bytes:  # fmt: skip
        """An assignment above all that were signed here before; `changes` are other fields of `Assignment`."""
        self._sequence += 1
        now = datetime.now(UTC).replace(microsecond=0)
        said: dict[str, Any] = {"sequence": self._sequence, "attempt": attempt, "time": int(now.timestamp())}
        if release is not None:
            said |= {"path": release.path, "length": release.length, "sha256": release.sha256}
        said |= changes
        meant = Assignment(device, said.pop("app", "main"), **said)
        return assignment.sign(meant, signer or self.signers["director"], now + lives)

    def publish(self, front: Interceptor, changed: Mapping[str, bytes], *, ahead: timedelta = timedelta(0)) -> None:
        """Serve other documents by `front`, under a snapshot and a timestamp that are signed as they have to be."""
        now = datetime.now(UTC).replace(microsecond=0) + ahead
        self.documents |= changed
        listed = {role: data for role, data in self.documents.items() if role not in ("root", "snapshot", "timestamp")}
        snapshot = repository.new_snapshot(listed, self.signers["snapshot"], now, self.documents["snapshot"])
        timestamp = repository.new_timestamp(snapshot, self.signers["timestamp"], now, self.documents["timestamp"])
        self.documents |= {"snapshot": snapshot, "timestamp": timestamp}
        for role, data in {**changed, "snapshot": snapshot}.items():
            front.answers[f"/metadata/{version_of(data)}.{role}.json"] = always(data)
        front.answers["/metadata/timestamp.json"] = always(timestamp)


def version_of(data: bytes) -> int:
    """The version of a signed document."""
    return int(Metadata.from_bytes(data).signed.version)


def _signer(path: Path) -> CryptoSigner:
    private = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    return CryptoSigner(private)
