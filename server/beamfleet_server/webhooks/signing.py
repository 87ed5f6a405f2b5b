"""Owns the secrets of webhooks and the signatures made with them, as Standard Webhooks has them.

A secret is made of the server's key file and a webhook's salt, so the database has none of them, and a secret can be
made again for each request. Who loses the file has other secrets then, and receivers refuse what is sent."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_server.errors import ServerError

FILE_NAME = "webhooks.key"
PREFIX = "whsec_"
SIZE = 32


class Secrets:
    """Makes secrets (32 bytes) out of a key file."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, directory: Path) -> "Secrets":
        """The key in `directory`, made if there is none; error `server.data_unusable`."""
        path = directory / FILE_NAME
        if not path.exists():
            durable.replace(path, secrets.token_bytes(SIZE), 0o600)
        key = path.read_bytes()
        if len(key) != SIZE:
            what = f"{path} is not {SIZE} bytes"
            raise ServerError("server.data_unusable", what, "put it back from a backup, or remove it and rotate all")
        return cls(key)

    def of(self, salt: str) -> bytes:
        """The secret of a salt."""
        return hmac.new(self._key, b"beamfleet webhook " + salt.encode(), hashlib.sha256).digest()


def new_salt() -> str:
    """256 random bits."""
    return secrets.token_hex(32)


def shown(secret: bytes) -> str:
    """A secret as people copy it: `whsec_` and base64."""
    return PREFIX + base64.b64encode(secret).decode()


def signature(secrets_: Sequence[bytes], message: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one `v1,BASE64` of HMAC-SHA256 over `id.timestamp.body` for each secret."""
    signed = f"{message}.{timestamp}.".encode() + body
    made = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets_)
    return " ".join(f"v1,{base64.b64encode(each).decode()}" for each in made)
