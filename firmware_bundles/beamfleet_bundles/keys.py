"""Owns the key files of the TUF roles and their public halves; never decides which role a key signs for.

A key file is PEM PKCS#8, mode 0600, encrypted with a passphrase or not, made whole or not at all; Ed25519 where we make
it, ECDSA P-256 as well where others do. A public half travels as a TUF key with its id, and with the name of its holder
where that is known, which is signed along with it:

    {"keyid": HEX64, "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": HEX64}, "x-beamfleet-name": "anna"}
"""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from beamfleet_bundles import durable
from beamfleet_bundles.errors import BundleError

_READABLE = "check the path, and who may read it"
_WRITABLE = "check the directory, its owner and the space on the disk"
_MADE = "it is the file that `beamfleet keys create` wrote, not FILE.pub"
MAX_KEY_FILE = 16_384
MIN_PASSPHRASE = 12
"""Fewest characters of a passphrase for a new key."""
NAME = "x-beamfleet-name"
MAX_NAME = 64

Ask = Callable[[str], str]
"""Gives the secret of that name: `passphrase` of a key file, `pin` of a token."""


def generate(path: Path, passphrase: str = "") -> CryptoSigner:
    """A new Ed25519 key in the new file `path`, encrypted if there is a passphrase.

    Errors `trust.key_exists`, `trust.key_passphrase`, `trust.storage`.
    """
    signer = CryptoSigner.generate_ed25519()
    store(path, load_pem_private_key(signer.private_bytes, password=None), passphrase)
    return signer


def store(path: Path, private: PrivateKeyTypes, passphrase: str) -> None:
    """Keep a private key in the new file `path`, encrypted if there is a passphrase; errors as `generate`."""
    try:
        durable.create(path, _pem(private, passphrase))
    except FileExistsError:
        raise BundleError(
            "trust.key_exists", f"{path} exists", "a key is never overwritten; move the old one away first"
        ) from None
    except OSError as error:
        raise BundleError("trust.storage", f"cannot write the key {path}: {error.strerror}", _WRITABLE) from error


def load(path: Path, ask: Ask | None = None) -> CryptoSigner:
    """The key in `path`; `ask` is asked for the passphrase if it is encrypted.

    Errors `trust.key_missing`, `trust.key_permissions`, `trust.key_passphrase`, `trust.key_unreadable`.
    """
    private = fetch(path, ask)
    if not isinstance(private, Ed25519PrivateKey) and not (
        isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP256R1)
    ):
        raise BundleError("trust.key_unreadable", f"the key {path} is neither Ed25519 nor ECDSA P-256", _MADE)
    return CryptoSigner(private)


def fetch(path: Path, ask: Ask | None = None) -> PrivateKeyTypes:
    """The private key in `path`, of whatever kind; errors as `load`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            pem = file.read(MAX_KEY_FILE)
    except FileNotFoundError:
        raise BundleError("trust.key_missing", f"there is no key {path}", "check the path") from None
    except OSError as error:
        raise BundleError("trust.key_unreadable", f"cannot read the key {path}: {error.strerror}", _READABLE) from error
    if mode & 0o077:
        raise BundleError(
            "trust.key_permissions", f"the key {path} is open to others (mode {mode:04o})", f"chmod 600 {path}"
        )
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        return _decrypted(path, pem, ask)
    except (ValueError, UnsupportedAlgorithm):
        raise BundleError("trust.key_unreadable", f"{path} does not hold a PEM PKCS#8 key", _MADE) from None


def public(signer: Signer) -> dict[str, Any]:
    """The public half of a signer, as it travels."""
    return describe(signer.public_key)


def describe(key: Key) -> dict[str, Any]:
    """A TUF key with its id, as it travels."""
    return {"keyid": key.keyid, **key.to_dict()}


def parse_public(described: Any) -> Key:
    """The key of `describe`, its id proven by its content; error `trust.key_unreadable`."""
    match described:
        case {
            "keyid": str() as keyid,
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": {"public": str() as text, **rest},
            **more,
        } if not rest and not (more.keys() - {NAME}):
            key = _ed25519(text)
        case {
            "keyid": str() as keyid,
            "keytype": "ecdsa",
            "scheme": "ecdsa-sha2-nistp256",
            "keyval": {"public": str() as text, **rest},
            **more,
        } if not rest and not (more.keys() - {NAME}):
            key = _p256(text)
        case _:
            raise BundleError(
                "trust.key_unreadable", "a public key is not an Ed25519 or ECDSA P-256 TUF key with its id"
            )
    if key.keyid != keyid:
        raise BundleError("trust.key_unreadable", f"the public key {keyid[:16]!r} has an id that is not its own")
    return named(key, more[NAME]) if NAME in more else key


def named(key: Key, name: object) -> Key:
    """`key` with the name of its holder; error `trust.key_unreadable` for what is no name."""
    return SSlibKey(key.keyid, key.keytype, key.scheme, key.keyval, {NAME: check_name(name)})


def check_name(name: object) -> str:
    """1 to 64 printable characters; error `trust.key_unreadable`."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME or name != name.strip():
        raise BundleError("trust.key_unreadable", f"{str(name)[:80]!r} is no name for a key", "1 to 64 characters")
    return name


def name_of(key: Key) -> str:
    """The name that travels with `key`, "" without one."""
    return str(key.unrecognized_fields.get(NAME, ""))


def write_public(path: Path, key: Key) -> None:
    """Write the public half to a file, as `read_public` reads it; error `trust.storage`."""
    try:
        durable.replace(path, json.dumps(describe(key), indent=2).encode() + b"\n")
    except OSError as error:
        raise BundleError("trust.storage", f"cannot write {path}: {error.strerror}", _WRITABLE) from error


def read_public(path: Path) -> Key:
    """The public half in a file, as it travels or as PEM; errors `trust.key_missing`, `trust.key_unreadable`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE)
    except FileNotFoundError:
        raise BundleError("trust.key_missing", f"there is no public key {path}", "check the path") from None
    except OSError as error:
        raise BundleError("trust.key_unreadable", f"cannot read {path}: {error.strerror}", _READABLE) from error
    try:
        if content.startswith(b"-----BEGIN PUBLIC KEY-----"):
            return _of_pem(content)
        return parse_public(json.loads(content))
    except (ValueError, RecursionError, BundleError) as error:
        why = error.message if isinstance(error, BundleError) else "it is neither JSON nor PEM"
        hint = "it is the file FILE.pub that `beamfleet keys create` wrote beside the key"
        raise BundleError("trust.key_unreadable", f"{path} is not a public key: {why}", hint) from None


def _pem(private: PrivateKeyTypes, passphrase: str) -> bytes:
    if 0 < len(passphrase) < MIN_PASSPHRASE:
        raise BundleError(
            "trust.key_passphrase",
            f"the passphrase has {len(passphrase)} characters",
            f"at least {MIN_PASSPHRASE}: five words that do not belong together",
        )
    hidden = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


def _decrypted(path: Path, pem: bytes, ask: Ask | None) -> PrivateKeyTypes:
    if ask is None:
        raise BundleError("trust.key_passphrase", f"the key {path} is encrypted", "use an unencrypted key here")
    try:
        return load_pem_private_key(pem, password=ask("passphrase").encode() or b"\0")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleError("trust.key_passphrase", f"the passphrase does not open {path}", "type it again") from None


def _ed25519(text: str) -> SSlibKey:
    try:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)))
    except ValueError:
        raise BundleError("trust.key_unreadable", "a public key is not 32 bytes in hexadecimal") from None


def _p256(text: str) -> SSlibKey:
    key = _of_pem(text.encode("utf-8", "replace"))
    if key.keytype != "ecdsa" or key.keyval["public"] != text:
        raise BundleError("trust.key_unreadable", "a public key is not one P-256 key in plain PEM")
    return key


def _of_pem(pem: bytes) -> SSlibKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey) and not (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        raise BundleError("trust.key_unreadable", "a public key is neither Ed25519 nor ECDSA P-256")
    return SSlibKey.from_crypto(key)
