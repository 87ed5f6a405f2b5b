"""A whole TUF repository in memory, behind the updater's port: real signatures, no socket. Tests break it on purpose.

`Repository()` is what a server has after `init`, `product create` and two releases. What a device would fetch lies in
`served`; a test replaces entries, or puts a function there that lies in its own way.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from beamfleet_bundles import repository
from beamfleet_bundles.facts import Facts
from beamfleet_bundles.launch import Launch
from beamfleet_bundles.manifest import FileEntry, Manifest, Release, Requires
from beamfleet_bundles.repository import RoleKeys
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PRODUCT = "sensor-gateway"
TARGET = "x86_64-glibc-otp25"
TOP_ROLES = ("root", "targets", "snapshot", "timestamp")

Served = bytes | Callable[[], Iterable[bytes]]


def manifest(
    version: str = "1.0.0", *, product: str = PRODUCT, target: str = TARGET, content: bytes = b"the release"
) -> Manifest:
    """A manifest of one file; only its names and numbers matter here."""
    arch, libc, otp = target.split("-")[:3]
    return Manifest(
        product=product,
        version=version,
        target=target,
        release=Release(product, "systools", "13.1.5", int(otp.removeprefix("otp")), ()),
        requires=Requires(arch, "musl" if libc == "musl" else "glibc", "2.34", ("libc.so.6", "libstdc++.so.6"), 1),
        launch=Launch(kind="systools", name=product, vsn=version, erts="13.1.5", boot="releases/start"),
        entries=(FileEntry("bin/thing", "0755", len(content), hashlib.sha256(content).hexdigest()),),
    )


class Repository:
    """The centre of a fleet as far as signatures go: keys, current metadata by role, and what is served."""

    def __init__(self, now: datetime = NOW, releases: Iterable[str] = ("1.0.0", "1.1.0")) -> None:
        self.now = now
        self.keys: dict[str, list[CryptoSigner]] = {
            role: [CryptoSigner.generate_ed25519()] for role in (*TOP_ROLES, "director", PRODUCT)
        }
        self.current: dict[str, bytes] = {}
        self.served: dict[str, Served] = {}
        self.requests: list[str] = []
        self.new_root()
        self.put("targets", repository.new_targets(self.role("director"), self.keys["targets"], now))
        self.create(PRODUCT)
        for version in releases:
            self.release(manifest(version))
        self.publish()

    def __call__(self, name: str, /) -> Iterable[bytes]:
        self.requests.append(name)
        if name not in self.served:
            raise FileNotFoundError(name)
        served = self.served[name]
        return served() if callable(served) else [served[:100], served[100:]]

    @property
    def root(self) -> bytes:
        """The first root, which devices embed."""
        served = self.served["1.root.json"]
        assert isinstance(served, bytes)
        return served

    def role(self, role: str, threshold: int = 1) -> RoleKeys:
        return RoleKeys(tuple(signer.public_key for signer in self.keys[role]), threshold)

    def put(self, role: str, data: bytes) -> None:
        """Makes `data` the current metadata of `role` and serves it under its version."""
        self.current[role] = data
        self.served[f"{version_of(data)}.{role}.json"] = data

    def new_root(self, *, rotate: Iterable[str] = (), threshold: int = 1) -> None:
        """The next root. The roles in `rotate` get a new key; root's old one signs as well."""
        signers = list(self.keys["root"])
        for role in rotate:
            self.keys[role] = [CryptoSigner.generate_ed25519() for _ in range(threshold)]
        signers += [signer for signer in self.keys["root"] if signer not in signers]
        roles = {role: self.role(role, threshold if role == "root" else 1) for role in TOP_ROLES}
        self.put("root", repository.new_root(roles, signers, self.now, self.current.get("root")))

    def create(self, product: str) -> None:
        self.keys.setdefault(product, [CryptoSigner.generate_ed25519()])
        top = self.current["targets"]
        self.put("targets", repository.add_product(top, product, self.role(product), self.keys["targets"], self.now))
        self.put(product, repository.new_product(self.keys[product], self.now))

    def release(self, new: Manifest, floor: int | None = None) -> Facts:
        data, facts = repository.add_release(self.current[new.product], new, self.keys[new.product], self.now, floor)
        self.put(new.product, data)
        return facts

    def publish(self, now: datetime | None = None) -> None:
        """New snapshot and timestamp of everything current."""
        now = now or self.now
        documents = {role: data for role, data in self.current.items() if role not in ("root", "snapshot", "timestamp")}
        (snapshot,), (timestamp,) = self.keys["snapshot"], self.keys["timestamp"]
        self.put("snapshot", repository.new_snapshot(documents, snapshot, now, self.current.get("snapshot")))
        new = repository.new_timestamp(self.current["snapshot"], timestamp, now, self.current.get("timestamp"))
        self.current["timestamp"] = self.served["timestamp.json"] = new

    def later(self, **passed: float) -> None:
        """Lets time pass: `later(days=1)`."""
        self.now += timedelta(**passed)

    def name(self, role: str) -> str:
        """What the current metadata of `role` is served as."""
        return "timestamp.json" if role == "timestamp" else f"{version_of(self.current[role])}.{role}.json"

    def bundle_metadata(self, product: str = PRODUCT) -> dict[str, bytes]:
        """The metadata that a bundle carries: `root.N`, `targets.N`, `PRODUCT.N`."""
        roles = ("root", "targets", product)
        return {f"{role}.{version_of(self.current[role])}": self.current[role] for role in roles}

    def online_keys(self) -> Mapping[str, Key]:
        return {role: self.keys[role][0].public_key for role in ("snapshot", "timestamp", "director")}


def version_of(data: bytes) -> int:
    return Metadata.from_bytes(data).signed.version


def resign(data: bytes, signers: Iterable[CryptoSigner], **changes: object) -> bytes:
    """`data` with some attributes of its signed part changed, signed again by `signers` alone."""
    document: Metadata[Any] = Metadata.from_bytes(data)
    for name, value in changes.items():
        setattr(document.signed, name, value)
    document.signatures.clear()
    for signer in signers:
        document.sign(signer, append=True)
    return document.to_bytes()


def altered(data: bytes) -> bytes:
    """`data` with one digit of its expiry changed: still metadata, no longer what was signed."""
    at = data.index(b'Z"', data.index(b'"expires":"')) - 1
    return data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :]
