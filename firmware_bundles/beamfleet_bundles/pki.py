"""Owns what both sides of enrolment must agree on: device keys, requests, certificate facts, bodies of EST (RFC 7030).

Issues nothing: the server's CA does. All keys are EC P-256. A request's subject is a courtesy that the CA ignores; a
certificate's common name is the device id, its serial is written in lower-case hexadecimal.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import NameOID

from beamfleet_bundles import durable
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_device

MAX_REQUEST = 8_192
"""Largest base64 body of an enrolment request, in bytes."""
MAX_RESPONSE = 65_536
"""Largest base64 body of an enrolment response, in bytes."""
MAX_CERTIFICATES = 16
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----[^-]*-----END \1-----\s?")


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says: common name, serial (lower-case hex), validity in Unix seconds."""

    name: str
    serial: str
    not_before: int
    not_after: int


def create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new P-256 key in the new file `path`, PEM PKCS#8, mode 0600; errors `pki.key_exists`, `pki.storage`."""
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        durable.create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError:
        raise BundleError("pki.key_exists", f"{path} exists", "a key is never overwritten") from None
    except OSError as error:
        raise BundleError("pki.storage", f"cannot write the key {path}: {error.strerror}") from error
    return key


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `path`; errors `pki.storage`, `pki.key_type`."""
    return read_key(_content(path), str(path))


def read_key(data: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    """The key in `data`, PEM, beside which other things may stand; `name` is for errors: `pki.key_type`."""
    block = _KEY.search(data)
    try:
        key = load_pem_private_key(block[0] if block else data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleError("pki.key_type", f"{name} does not hold an unencrypted PEM key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BundleError("pki.key_type", f"the key {name} is not on the curve P-256")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo) in hex: what people compare before they accept a device."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def join_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate and its key as one PEM file, so that one rename changes both."""
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_pair(data: bytes, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Both parts of `join_pair`; errors `pki.certificate`, `pki.key_type`, `pki.not_ours` if they are strangers."""
    certificate, key = load_certificate(data), read_key(data, name)
    if certificate.public_key() != key.public_key():
        raise BundleError("pki.not_ours", f"certificate and key in {name} do not belong together")
    return certificate, key


def load_pair(path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """`read_pair` of a file; error `pki.storage` as well."""
    return read_pair(_content(path), str(path))


def make_request(key: ec.EllipticCurvePrivateKey, device: str) -> bytes:
    """The PKCS#10 request (DER) for a certificate on `key`; error `name.device`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_device(device))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def read_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a PKCS#10 request proves to hold; errors `pki.request`, `pki.key_type`."""
    try:
        request = x509.load_der_x509_csr(der)
        key, proven = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise BundleError("pki.request", "the body is not a PKCS#10 certificate request") from None
    if not proven:
        raise BundleError("pki.request", "the certificate request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BundleError("pki.key_type", "the certificate request is not for a key on the curve P-256")
    return key


@dataclass(frozen=True, slots=True)
class Requested:
    """What a certificate request asks for: its key, and the common name that it gives itself ("" without exactly
    one)."""

    key: ec.EllipticCurvePublicKey
    name: str


def read_request_of(der: bytes) -> Requested:
    """A PKCS#10 request with the name in it, which proves nothing; errors as `read_request`."""
    key = read_request(der)
    try:
        names = x509.load_der_x509_csr(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        names = []
    text = names[0].value if len(names) == 1 else ""
    return Requested(key, text if isinstance(text, str) else "")


def load_certificate(data: bytes) -> x509.Certificate:
    """A certificate from PEM or DER; error `pki.certificate`."""
    try:
        if b"-----BEGIN CERTIFICATE" in data:
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except (ValueError, TypeError):
        raise BundleError("pki.certificate", "the bytes are not a certificate") from None


def load_certificates(data: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one; error `pki.certificate`."""
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, TypeError):
        raise BundleError("pki.certificate", "the bytes are not certificates in PEM") from None


def read_certificate(certificate: x509.Certificate) -> CertificateFacts:
    """The facts of `certificate`; error `pki.certificate` unless it has exactly one common name."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        names = []
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise BundleError("pki.certificate", "the certificate does not have exactly one common name")
    return CertificateFacts(
        name=names[0].value,
        serial=f"{certificate.serial_number:x}",
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
    )


def check_issued(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    device: str,
    authorities: Sequence[x509.Certificate],
) -> CertificateFacts:
    """The facts of a certificate that a device was given: for its key, its id, from its fleet; error `pki.not_ours`.

    Any of the fleet's authorities may have issued it.

    Dates are not looked at: a device may enrol before it knows the time.
    """
    facts = read_certificate(certificate)
    if certificate.public_key() != key.public_key():
        raise BundleError("pki.not_ours", "the certificate is for another key", "enrol again with a new token")
    if facts.name != device:
        raise BundleError("pki.not_ours", f"the certificate is for {facts.name!r}, not for {device}")
    if not any(is_issued_by(certificate, authority) for authority in authorities):
        raise BundleError("pki.not_ours", "the certificate was not issued by the fleet's authority")
    return facts


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` signed `certificate`; no date is looked at."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def encode_body(der: bytes) -> bytes:
    """`der` as the body of an EST message: base64 in lines of 64, the last one ended as well."""
    text = base64.b64encode(der)
    return b"".join(text[start : start + 64] + b"\n" for start in range(0, len(text), 64))


def decode_body(body: bytes, limit: int) -> bytes:
    """The bytes of an EST message's body, at most `limit` bytes of base64 and white space; error `pki.encoding`."""
    if len(body) > limit:
        raise BundleError("pki.encoding", f"the body has more than {limit} bytes")
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BundleError("pki.encoding", "the body is not base64") from None
    if not der:
        raise BundleError("pki.encoding", "the body is empty")
    return der


def pack_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """`certificates` as a PKCS#7 certs-only message (DER), what EST answers with."""
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def unpack_certificates(der: bytes) -> list[x509.Certificate]:
    """The certificates, 1 to `MAX_CERTIFICATES`, of a PKCS#7 certs-only message (DER); error `pki.certificate`."""
    try:
        certificates = pkcs7.load_der_pkcs7_certificates(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BundleError("pki.certificate", "the answer is not a PKCS#7 message with certificates") from None
    if not 1 <= len(certificates) <= MAX_CERTIFICATES:
        raise BundleError("pki.certificate", f"the answer has {len(certificates)} certificates")
    return certificates


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError("pki.storage", f"cannot read {path}: {error.strerror}") from error
