"""Owns who may open the evidence of this fleet's devices: X25519 keys that the owners of the targets role sign.

The signed part of the top targets metadata may carry one object more, a closed schema:

    "beamfleet-evidence": {"recipients": [{"name": "anna", "public": HEX64}, ...]}

A device seals evidence for these and for nobody else: a server, or a thief of one, cannot put a key of its own. The
private half is an encrypted file of the person (`keys.store`), the public half travels as the entry above. Pure but for
the files of public halves.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from tuf.api.metadata import Targets

from beamfleet_bundles import durable, keys
from beamfleet_bundles.errors import BundleError

KEY: Final = "beamfleet-evidence"
MAX_RECIPIENTS: Final = 16
MAX_FILE: Final = 4_096


class Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key, and whose it is."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=keys.MAX_NAME)]
    public: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the public half."""
        return hashlib.sha256(bytes.fromhex(self.public)).hexdigest()[:16]

    @property
    def key(self) -> X25519PublicKey:
        """The public half."""
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.public))


class Recipients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The object that is signed."""

    recipients: Annotated[tuple[Recipient, ...], msgspec.Meta(max_length=MAX_RECIPIENTS)]


def read(targets: Targets) -> tuple[Recipient, ...]:
    """Who may open evidence by `targets`; error `evidence.schema`. Its signatures are for others to check."""
    said = targets.unrecognized_fields.get(KEY)
    return () if said is None else check(said)


def write(targets: Targets, recipients: Sequence[Recipient]) -> None:
    """Makes `targets`, which is to be signed again, name these; nobody takes the object away. Error `evidence.schema`.

    The order does not matter, so it is always the same.
    """
    targets.unrecognized_fields.pop(KEY, None)
    if recipients:
        ordered = sorted(recipients, key=lambda each: (each.name, each.public))
        said = {"recipients": [{"name": each.name, "public": each.public} for each in ordered]}
        check(said)
        targets.unrecognized_fields[KEY] = said


def check(said: Any) -> tuple[Recipient, ...]:
    """The recipients in what is, or shall be, signed; error `evidence.schema`."""
    try:
        found = msgspec.convert(said, Recipients, strict=True).recipients
    except (msgspec.ValidationError, RecursionError):
        raise BundleError("evidence.schema", "what is signed about evidence does not fit its schema") from None
    probe = X25519PrivateKey.generate()
    for each in found:
        keys.check_name(each.name)
        try:
            probe.exchange(each.key)
        except ValueError:  # a point of low order: anybody could open what is sealed for it
            raise BundleError("evidence.schema", f"what is there for {each.name} is no key for evidence") from None
    if len({each.public for each in found}) < len(found) or len({each.name for each in found}) < len(found):
        raise BundleError("evidence.schema", "a key or a name for evidence is there twice")
    return found


def of(private: X25519PrivateKey, name: str) -> Recipient:
    """The public half of a private key, under the name of its holder; error `trust.key_unreadable`."""
    return Recipient(name=keys.check_name(name), public=private.public_key().public_bytes_raw().hex())


def generate(path: Path, name: str, passphrase: str = "") -> Recipient:
    """A new key in the new file `path`; errors as `keys.generate`."""
    private = X25519PrivateKey.generate()
    made = of(private, name)
    keys.store(path, private, passphrase)
    return made


def load(path: Path, ask: keys.Ask | None = None) -> X25519PrivateKey:
    """The private key in `path`; errors as `keys.load`."""
    private = keys.fetch(path, ask)
    if not isinstance(private, X25519PrivateKey):
        hint = "it is the file that `beamfleet keys evidence create` wrote"
        raise BundleError("trust.key_unreadable", f"{path} is no key for evidence", hint)
    return private


def write_public(path: Path, recipient: Recipient) -> None:
    """Write the public half to a file, as `read_public` reads it; error `trust.storage`."""
    text = json.dumps({"name": recipient.name, "public": recipient.public}, indent=2)
    try:
        durable.replace(path, text.encode() + b"\n")
    except OSError as error:
        raise BundleError("trust.storage", f"cannot write {path}: {error.strerror}") from error


def read_public(path: Path) -> Recipient:
    """The public half in a file; errors `trust.key_missing`, `trust.key_unreadable`."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MAX_FILE), type=Recipient, strict=True)
        keys.check_name(found.name)
    except FileNotFoundError:
        raise BundleError("trust.key_missing", f"there is no public key {path}", "check the path") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, BundleError):
        hint = "it is the file FILE.pub that `beamfleet keys evidence create` wrote beside the key"
        raise BundleError("trust.key_unreadable", f"{path} is no public key for evidence", hint) from None
    return found
