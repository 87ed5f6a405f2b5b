"""Owns reading the ID token of an OpenID provider: signature first, then every claim that matters. Does no I/O.

Two algorithms and no others, each with the key type that belongs to it: RS256 with RSA of at least 2048 bits, ES256
with P-256. `none`, HMAC and whatever a token itself brings along as a key are refused. OpenID Connect Core, 3.1.3.7.
"""

import base64
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from beamfleet_server.errors import ServerError

LARGEST = 16_384
LEEWAY_S = 120
"""How far two clocks may be apart."""
SMALLEST_RSA = 2048

Claims = Mapping[str, Any]


class UnknownKeyError(Exception):
    """The token names a key that is not among those given; the provider may have new ones."""


def verify(token: str, keys: Sequence[Claims], *, issuer: str, audience: str, nonce: str, now: int) -> Claims:
    """The claims of a token that is good now; error `login.refused`, or UnknownKeyError. `keys` as in a JWKS."""
    parts = token.split(".")
    if len(token) > LARGEST or len(parts) != 3:
        raise refused("the provider's token is no signed JWT")
    header, claims = _object(parts[0]), _object(parts[1])
    key = _key(header, keys)
    signed = f"{parts[0]}.{parts[1]}".encode()
    if not _signed(header.get("alg"), key, _bytes(parts[2]), signed):
        raise refused("the provider's token is not signed by one of its keys")
    audiences = claims["aud"] if isinstance(claims.get("aud"), list) else [claims.get("aud")]
    issued, expires = _number(claims.get("iat")), _number(claims.get("exp"))
    if claims.get("iss") != issuer or audience not in audiences:
        raise refused("the provider's token is for somebody else")
    if len(audiences) > 1 and claims.get("azp") != audience:
        raise refused("the provider's token is for somebody else as well")
    if not issued - LEEWAY_S <= now < expires + LEEWAY_S:
        raise refused("the provider's token has expired, or the clocks differ")
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8", "replace"), nonce.encode()):
        raise refused("the provider's token answers another log-in")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise refused("the provider's token names nobody")
    return claims


def refused(why: str) -> ServerError:
    """The error for a log-in that does not hold."""
    return ServerError("login.refused", why, "log in again; ask whoever runs the identity provider")


def _key(header: Claims, keys: Sequence[Claims]) -> Claims:
    fitting = [key for key in keys if key.get("use", "sig") == "sig"]
    named = header.get("kid")
    chosen = [key for key in fitting if key.get("kid") == named] if named is not None else fitting
    if len(chosen) != 1:
        raise UnknownKeyError
    return chosen[0]


def _signed(algorithm: object, key: Claims, signature: bytes, signed: bytes) -> bool:
    if key.get("alg", algorithm) != algorithm:
        return False
    try:
        if algorithm == "RS256" and key.get("kty") == "RSA":
            numbers = rsa.RSAPublicNumbers(_integer(key.get("e")), _integer(key.get("n")))
            public = numbers.public_key()
            if public.key_size < SMALLEST_RSA:
                return False
            public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        elif algorithm == "ES256" and key.get("kty") == "EC" and key.get("crv") == "P-256" and len(signature) == 64:
            x, y = _integer(key.get("x")), _integer(key.get("y"))
            half = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            point = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            point.verify(encode_dss_signature(*half), signed, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True


def _object(part: str) -> dict[str, Any]:
    try:
        document = json.loads(_bytes(part))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise refused("the provider's token is no signed JWT")
    return document


def _bytes(part: object) -> bytes:
    if not isinstance(part, str) or not part.isascii():
        raise refused("the provider's token is no signed JWT")
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise refused("the provider's token is no signed JWT") from None


def _integer(part: object) -> int:
    return int.from_bytes(_bytes(part), "big")


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refused("the provider's token does not say how long it is good")
    return value
