r"""Owns the envelope that evidence travels in: whoever carries or keeps it can neither read nor change it. Pure.

    beamfleet-sealed 1\n
    {"device": ID, "id": WORD, "keys": [{"key": ID of a recipient, "sealed": BASE64}, ...]}\n
    chunk chunk ... chunk

A random key is sealed for each recipient by HPKE (RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305), whose `info` is
the first line and what the archive is of. A chunk is 64 KiB of the content, the last one shorter, under that key with
ChaCha20-Poly1305: its nonce is its number and whether it is the last, so that none can be left out, doubled, moved or
put at the end; what is authenticated beside it is the SHA-256 of both lines. It does not say who sealed it: anybody who
has a public half can, so what comes out is as hostile as what came in.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.recipients import MAX_RECIPIENTS, Recipient, of

MAGIC: Final = b"beamfleet-sealed 1\n"
CHUNK: Final = 1 << 16
MAX_HEADER: Final = 8_192
TAG: Final = 16
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    sealed: Annotated[bytes, msgspec.Meta(max_length=256)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is on the outside: for the server to file it, and authenticated for whoever opens it."""

    device: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z")]
    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z-]{1,64}\Z")]
    keys: Annotated[tuple[_Key, ...], msgspec.Meta(min_length=1, max_length=MAX_RECIPIENTS)]


def seal(content: bytes, device: str, word: str, recipients: Sequence[Recipient]) -> Iterator[bytes]:
    """The envelope around `content`, piece by piece, for at least one recipient."""
    key, info = os.urandom(32), _info(device, word)
    sealed = [
        {"key": each.id, "sealed": base64.b64encode(_SUITE.encrypt(key, each.key, info=info)).decode()}
        for each in recipients
    ]
    header = MAGIC + json.dumps({"device": device, "id": word, "keys": sealed}, separators=(",", ":")).encode() + b"\n"
    yield header
    cipher, about = ChaCha20Poly1305(key), hashlib.sha256(header).digest()
    count = max(1, -(-len(content) // CHUNK))
    for number in range(count):
        piece = content[number * CHUNK : (number + 1) * CHUNK]
        yield cipher.encrypt(_nonce(number, last=number == count - 1), piece, about)


def read_header(sealed: bytes) -> Header:
    """What is on the outside; error `sealing.malformed`. `sealed` may be its beginning alone."""
    return _split(sealed)[0]


def unseal(sealed: bytes, private: X25519PrivateKey) -> tuple[Header, bytes]:
    """The content, whole and unchanged; errors `sealing.malformed`, `sealing.other_key`, `sealing.damaged`."""
    header, beginning = _split(sealed)
    mine = of(private, "me").id
    wrapped: Mapping[str, bytes] = {each.key: each.sealed for each in header.keys}
    if mine not in wrapped:
        known = ", ".join(wrapped)
        raise BundleError("sealing.other_key", f"it is sealed for the keys {known}, not for {mine}", "use one of these")
    try:
        key = _SUITE.decrypt(wrapped[mine], private, info=_info(header.device, header.id))
        cipher = ChaCha20Poly1305(key)
        return header, b"".join(_opened(cipher, sealed, beginning))
    except (InvalidTag, ValueError):
        raise BundleError("sealing.damaged", "it was damaged, cut or changed after it was sealed") from None


def _opened(cipher: ChaCha20Poly1305, sealed: bytes, beginning: int) -> Iterator[bytes]:
    about, size = hashlib.sha256(sealed[:beginning]).digest(), CHUNK + TAG
    count = max(1, -(-(len(sealed) - beginning) // size))
    for number in range(count):
        piece = sealed[beginning + number * size : beginning + (number + 1) * size]
        yield cipher.decrypt(_nonce(number, last=number == count - 1), piece, about)


def _split(sealed: bytes) -> tuple[Header, int]:
    """The header, and where the chunks begin."""
    end = sealed.find(b"\n", len(MAGIC), len(MAGIC) + MAX_HEADER)
    try:
        if not sealed.startswith(MAGIC) or end < 0:
            raise ValueError("no header")
        header = msgspec.json.decode(sealed[len(MAGIC) : end], type=Header)
    except (ValueError, RecursionError):
        raise BundleError("sealing.malformed", "it is no sealed evidence, or only a part of it") from None
    return header, end + 1


def _info(device: str, word: str) -> bytes:
    return MAGIC + f"{device}\n{word}\n".encode()


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
