"""Owns the Ed25519 key files of the TUF roles and their public halves; never decides which role a key signs for.

A key file is PEM PKCS#8, mode 0600, made whole or not at all. A public half travels as a TUF key with its id:
`{"keyid": HEX64, "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": HEX64}}`.
"""

import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from beamfleet_bundles import durable
from beamfleet_bundles.errors import BundleError

MAX_KEY_FILE = 16_384


def generate(path: Path) -> CryptoSigner:
    """A new key in the new file `path`; errors `trust.key_exists`, `trust.storage`."""
    signer = CryptoSigner.generate_ed25519()
    try:
        durable.create(path, signer.private_bytes)
    except FileExistsError:
        raise BundleError(
            "trust.key_exists", f"{path} exists", "a key is never overwritten; move the old one away first"
        ) from None
    except OSError as error:
        raise BundleError("trust.storage", f"cannot write the key {path}: {error.strerror}") from error
    return signer


def load(path: Path) -> CryptoSigner:
    """The key in `path`; errors `trust.key_missing`, `trust.key_permissions`, `trust.key_unreadable`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            pem = file.read(MAX_KEY_FILE)
    except FileNotFoundError:
        raise BundleError("trust.key_missing", f"there is no key {path}") from None
    except OSError as error:
        raise BundleError("trust.key_unreadable", f"cannot read the key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise BundleError(
            "trust.key_permissions", f"the key {path} is open to others (mode {mode:04o})", f"chmod 600 {path}"
        )
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleError("trust.key_unreadable", f"{path} does not hold an unencrypted PEM PKCS#8 key") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BundleError("trust.key_unreadable", f"the key {path} is not an Ed25519 key")
    return CryptoSigner(private)


def public(signer: Signer) -> dict[str, Any]:
    """The public half of a signer, as it travels."""
    return describe(signer.public_key)


def describe(key: Key) -> dict[str, Any]:
    """A TUF key with its id, as it travels."""
    return {"keyid": key.keyid, **key.to_dict()}


def parse_public(described: Any) -> Key:
    """The Ed25519 key of `describe`, its id proven by its content; error `trust.key_unreadable`."""
    match described:
        case {
            "keyid": str() as keyid,
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": {"public": str() as text, **rest},
            **more,
        } if not rest and not more:
            pass
        case _:
            raise BundleError("trust.key_unreadable", "a public key is not an Ed25519 TUF key with its id")
    try:
        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)))
    except ValueError:
        raise BundleError("trust.key_unreadable", "a public key is not 32 bytes in hexadecimal") from None
    if key.keyid != keyid:
        raise BundleError("trust.key_unreadable", f"the public key {keyid[:16]!r} has an id that is not its own")
    return key
