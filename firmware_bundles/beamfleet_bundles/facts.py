"""Owns what the product role signs about a release for one target: length, hash, and the closed `custom` object.

Pure values and checks; knows no metadata document, no file and no network.
"""

import hashlib
from typing import Annotated, Any

import msgspec

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.manifest import MAX_LIBRARIES, MAX_SIZE, Manifest
from beamfleet_bundles.names import Target, parse_target_path, target_path

_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
_Word = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[0-9A-Za-z][0-9A-Za-z._+-]*\Z")]
_Library = Annotated[str, msgspec.Meta(max_length=255, pattern=r"\A[0-9A-Za-z_][0-9A-Za-z._+-]*\Z")]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Custom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `custom` object of a signed target, a closed schema."""

    product: str
    version: str
    counter: _Positive
    """Order of the product's releases; equal for all targets of one release."""
    floor: _Positive
    """Lowest counter that may still be installed once this release has been committed."""
    arch: _Word
    libc: _Word
    libc_version: Annotated[str, msgspec.Meta(max_length=16, pattern=r"\A([0-9]+(\.[0-9]+)*)?\Z")]
    """Oldest libc it runs on, such as `2.34`; empty when it asks for none."""
    otp: _Positive
    erts: _Word
    hardware: _Word | None
    """The one board it runs on; None for any."""
    libraries: Annotated[tuple[_Library, ...], msgspec.Meta(max_length=MAX_LIBRARIES)]
    """Shared libraries (sonames) that the device must bring."""
    unpacked: _Natural
    """Bytes of all files."""
    files: _Natural
    min_agent: _Natural
    """Oldest generation of the agent that can run it."""


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed about one manifest: its name as a TUF target, its bytes, and what it needs."""

    path: str
    """`PRODUCT/VERSION/TARGET/manifest`."""
    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)]
    sha256: _Hash
    custom: Custom

    @property
    def served_path(self) -> str:
        """Where the manifest lies below `targets/`: `PRODUCT/VERSION/TARGET/SHA256.manifest`."""
        folder, _, name = self.path.rpartition("/")
        return f"{folder}/{self.sha256}.{name}"

    def verify(self, manifest: bytes) -> bytes:
        """Gives `manifest` back if it is the signed one; error `trust.mismatch`."""
        if len(manifest) != self.length or hashlib.sha256(manifest).hexdigest() != self.sha256:
            raise BundleError("trust.mismatch", f"the manifest of {self.path} is not the signed one")
        return manifest


def read_facts(path: str, length: Any, hashes: Any, custom: Any) -> Facts:
    """The facts of a TUF target, held against its own name; errors `trust.facts`, `name.*`."""
    try:
        facts = msgspec.convert(
            {"path": path, "length": length, "sha256": hashes.get("sha256"), "custom": custom}, Facts, strict=True
        )
    except (msgspec.ValidationError, AttributeError) as error:
        raise BundleError("trust.facts", f"what is signed about {path[:160]!r} is not understood: {error}") from None
    product, version, name = parse_target_path(path)
    target, said = Target.parse(name), facts.custom
    described = Target(said.arch, said.libc, said.otp, said.hardware)
    if (product, version, target) != (said.product, said.version, described):
        raise BundleError("trust.facts", f"what is signed about {path} belongs to another target")
    if said.floor > said.counter:
        raise BundleError("trust.facts", f"{path} has the counter {said.counter}, below its own floor {said.floor}")
    return facts


def describe(manifest: Manifest, counter: int, floor: int) -> Facts:
    """The facts to be signed about `manifest`; error `trust.facts` for what no device could read."""
    encoded, target = manifest.encode(), Target.parse(manifest.target)
    custom = {
        "product": manifest.product,
        "version": manifest.version,
        "counter": counter,
        "floor": floor,
        "arch": target.arch,
        "libc": target.libc,
        "libc_version": manifest.requires.libc_version,
        "otp": target.otp,
        "erts": manifest.release.erts,
        "hardware": target.hardware,
        "libraries": list(manifest.requires.libraries),
        "unpacked": manifest.unpacked,
        "files": len(manifest.files),
        "min_agent": manifest.requires.min_agent,
    }
    path = target_path(manifest.product, manifest.version, manifest.target)
    return read_facts(path, len(encoded), {"sha256": hashlib.sha256(encoded).hexdigest()}, custom)
