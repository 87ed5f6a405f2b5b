"""EST as somebody does it who has no business there: wrong tokens, requests that are none, keys of another kind."""

import base64
from collections.abc import Callable

from beamfleet_bundles import pki
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequestBuilder, Name, NameAttribute
from cryptography.x509.oid import NameOID

from tests.trust.hostile.case import named
from tests.trust.hostile.ground import LIAR, SPENDER, Ground
from tests.trust.hostile.wire import Give, bare, request, send

NEWCOMER = "newcomer"
EST = "/.well-known/est"


def good() -> bytes:
    """A request that is one."""
    return pki.make_request(ec.generate_private_key(ec.SECP256R1()), NEWCOMER)


def of(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """A request for a key of another kind."""
    subject = Name([NameAttribute(NameOID.COMMON_NAME, NEWCOMER)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return CertificateSigningRequestBuilder(subject).sign(key, algorithm).public_bytes(Encoding.DER)


def basic(name: str, token: str) -> str:
    """The header of HTTP Basic."""
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


def token(ground: Ground) -> str:
    """A good one for the newcomer, which no refusal spends."""
    if "token" not in ground.made:
        ground.made["token"] = ground.server.new_token(NEWCOMER)
    return str(ground.made["token"])


def first(body: Callable[[], bytes], **headers: str) -> Give:
    """A first enrolment with a good token, unless the headers say otherwise."""

    def give(ground: Ground) -> str:
        given = {"Authorization": basic(NEWCOMER, token(ground)), "Content_Type": "application/pkcs10"} | headers
        return send(ground, "enrolment", request("POST", f"{EST}/simpleenroll", body(), **given))

    return give


def der(make: Callable[[], bytes]) -> Give:
    """A first enrolment with these bytes as a request."""
    return first(lambda: pki.encode_body(make()))


def who(authorization: str) -> Give:
    """A good request of somebody who shows this."""
    return first(lambda: pki.encode_body(good()), Authorization=authorization)


def again(body: Callable[[], bytes], *, known: bool = True, **headers: str) -> Give:
    """A renewal, with the liar's certificate or without one."""
    data = f"{EST}/simplereenroll"
    return lambda ground: send(
        ground,
        "enrolment",
        request("POST", data, body(), **headers),
        ground.identity if known else None,
    )


def flipped() -> bytes:
    """A request whose signature is wrong."""
    data = good()
    return data[:-1] + bytes([data[-1] ^ 1])


def spent(ground: Ground) -> str:
    """The token with which somebody has come, for another key."""
    body = pki.encode_body(pki.make_request(ec.generate_private_key(ec.SECP256R1()), SPENDER))
    headers = {"Authorization": basic(SPENDER, ground.spent)}
    return send(ground, "enrolment", request("POST", f"{EST}/simpleenroll", body, **headers))


REFUSED = "token.wrong"
ENROLMENT: dict[str, tuple[str, Give]] = {
    "no token": (REFUSED, lambda ground: send(
        ground, "enrolment", request("POST", f"{EST}/simpleenroll", pki.encode_body(good())))),
    "a wrong token": (REFUSED, who(basic(NEWCOMER, "x" * 43))),
    "an empty token": (REFUSED, who(basic(NEWCOMER, ""))),
    "a token of 9 kB": (REFUSED, who(basic(NEWCOMER, "x" * 9000))),
    "a token of zeros": (REFUSED, who(basic(NEWCOMER, "\0" * 43))),
    "nobody's name": (REFUSED, who(basic("", "x"))),
    "another's name": (REFUSED, lambda ground: who(basic("somebody", token(ground)))(ground)),
    "a name that climbs": (REFUSED, lambda ground: who(basic("../newcomer", token(ground)))(ground)),
    "the server's name": (REFUSED, lambda ground: who(basic("_server", token(ground)))(ground)),
    "a name of many": (REFUSED, lambda ground: who(basic("+", token(ground)))(ground)),
    "a name with a line break": (REFUSED, lambda ground: who(basic("newcomer\n", token(ground)))(ground)),
    "a name for a query": (REFUSED, who(basic("' OR 1=1 --", "x"))),
    "a spent token": ("token.used", spent),
    "no name and no token": (f"{REFUSED} | request.malformed", who("Basic " + base64.b64encode(b"nothing").decode())),
    "no base64 as token": (f"{REFUSED} | request.malformed", who("Basic %%%")),
    "another scheme": (f"{REFUSED} | request.malformed", who("Bearer abc")),
    "nothing": ("pki.encoding", first(lambda: b"")),
    "no base64": ("pki.encoding", first(lambda: b"%%%%")),
    "half of it": ("pki.encoding | pki.request", first(lambda: pki.encode_body(good())[:50])),
    "bare DER": ("pki.encoding", first(good)),
    "no request": ("pki.request", der(lambda: b"\0\0\0")),
    "an endless length": ("pki.request", der(lambda: b"\x30\x84\xff\xff\xff\xff" + bytes(50))),
    "deep nesting": ("pki.request", der(lambda: b"\x30\x80" * 2000)),
    "a request that goes on": ("pki.request", der(lambda: good() + b"more")),
    "half a request": ("pki.request", der(lambda: good()[:60])),
    "a wrong signature": ("pki.request", der(flipped)),
    "an RSA key": ("pki.key_type", der(lambda: of(rsa.generate_private_key(65537, 2048)))),
    "a key of P-384": ("pki.key_type", der(lambda: of(ec.generate_private_key(ec.SECP384R1())))),
    "an Ed25519 key": ("pki.key_type", der(lambda: of(ed25519.Ed25519PrivateKey.generate()))),
    "9 kB": ("request.too_large", first(lambda: b"A" * 9000)),
    "another method": ("request.method", bare("enrolment", request("GET", f"{EST}/simpleenroll"))),
    "a service that is none": ("request.not_found", bare("enrolment", request("GET", f"{EST}/serverkeygen"))),
    "a path that climbs": ("request.not_found", bare("enrolment", request("GET", f"{EST}/../../ca/authority.key"))),
    "a renewal of nothing": ("certificate.unknown", again(lambda: pki.encode_body(good()), known=False)),
    "a renewal by a header": (
        "certificate.unknown",
        again(lambda: pki.encode_body(good()), known=False, X_Client_Cert=LIAR, X_SSL_Client_S_DN=f"CN={LIAR}"),
    ),
    "a renewal of garbage": ("pki.request", again(lambda: b"AAAA")),
    "a renewal for an RSA key": (
        "pki.key_type", again(lambda: pki.encode_body(of(rsa.generate_private_key(65537, 2048)))),
    ),
    "no HTTP": ("request.malformed", bare("enrolment", b"\0" * 100)),
    "headers of 40 kB": ("request.headers", bare("enrolment", request("GET", f"{EST}/cacerts", X="x" * 40_000))),
}  # fmt: skip

CASES = named("enrolment", "server", ENROLMENT)
