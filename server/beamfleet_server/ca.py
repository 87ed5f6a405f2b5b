"""Owns the fleet's certificate authority: its key, what it signs and for how long; never decides who gets a
certificate.

EC P-256 throughout. The CA signs three kinds of certificates: the server's (serverAuth, for the configured names), the
server's own as a client of the broker (CN `_server`), and the devices' (clientAuth, CN = device id, 90 days). The
subject of a CSR is never looked at: the name comes from the token's record."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from beamfleet_bundles import durable, pki
from beamfleet_bundles.names import check_device
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError

DEVICE_DAYS = 90
SERVER_DAYS = 397
AUTHORITY_DAYS = 20 * 365
LIST_DAYS = 400
"""A server that is down for a month must not lock the fleet out: an expired list does."""
BACKDATED = timedelta(hours=1)
"""Certificates begin a little in the past: a device's clock may be behind the server's."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was signed: `serial` in lower-case hex, dates in Unix seconds, `der` its bytes."""

    serial: str
    not_before: int
    not_after: int
    der: bytes


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Files of a certificate (PEM) and of its private key (PEM, mode 0600)."""

    certificate: Path
    key: Path


class FleetAuthority:
    """The CA in a directory; made there by `open` if it is not there yet."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, directory: Path, clock: Clock
    ) -> None:
        self._key = key
        self.certificate = certificate
        self._directory = directory
        self._clock = clock

    @classmethod
    def open(cls, directory: Path, clock: Clock) -> "FleetAuthority":
        """Load `authority.{key,pem}`. The certificate is written last: without it nothing was signed, and both are
        made anew."""
        key_path, certificate_path = directory / "authority.key", directory / "authority.pem"
        if not certificate_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            durable.replace(key_path, _key_pem(key), 0o600)
            durable.replace(certificate_path, _pem(_self_signed(key, clock())))
        loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ServerError("server.data_unusable", f"{key_path} is not an EC key")
        return cls(loaded, x509.load_pem_x509_certificate(certificate_path.read_bytes()), directory, clock)

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return _pem(self.certificate)

    @property
    def der(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def issue_device(self, device: str, public_key: ec.EllipticCurvePublicKey) -> Certificate:
        """A certificate of `DEVICE_DAYS` days for `device`; error `name.device`."""
        return _kept(self._sign(check_device(device), public_key, DEVICE_DAYS, ExtendedKeyUsageOID.CLIENT_AUTH, ()))

    def revocation_list(self, serials: Mapping[str, int], began: int) -> bytes:
        """The signed list (PEM) of certificates that are refused: serial in hex -> Unix seconds since when. It counts
        from `began` and is good for `LIST_DAYS`."""
        start = datetime.fromtimestamp(began, UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(start)
            .next_update(start + timedelta(days=LIST_DAYS))
        )
        for serial, since in sorted(serials.items()):
            revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(
                revoked.revocation_date(datetime.fromtimestamp(since, UTC)).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server_pair(self, names: Sequence[str]) -> KeyPair:
        """The server's key and certificate for `names` and the local ones; made anew when the names change or at 2/3
        of its life."""
        wanted = tuple(dict.fromkeys((*names, *LOCAL_NAMES)))
        pair = KeyPair(self._directory / "server.pem", self._directory / "server.key")
        if not self._serves(pair, wanted):
            key = ec.generate_private_key(ec.SECP256R1())
            signed = self._sign(wanted[0], key.public_key(), SERVER_DAYS, ExtendedKeyUsageOID.SERVER_AUTH, wanted)
            pair.certificate.unlink(missing_ok=True)
            durable.replace(pair.key, _key_pem(key), 0o600)
            durable.replace(pair.certificate, _pem(signed))
        return pair

    def client_pair(self, name: str) -> KeyPair:
        """A new key and certificate with which the server itself is a client under `name`."""
        pair = KeyPair(self._directory / f"client{name}.pem", self._directory / f"client{name}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        durable.replace(pair.key, _key_pem(key), 0o600)
        signed = self._sign(name, key.public_key(), SERVER_DAYS, ExtendedKeyUsageOID.CLIENT_AUTH, ())
        durable.replace(pair.certificate, _pem(signed))
        return pair

    def _serves(self, pair: KeyPair, names: Sequence[str]) -> bool:
        if not (pair.certificate.exists() and pair.key.exists()):
            return False
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        renew_at = certificate.not_valid_before_utc + life * 2 / 3
        return list(alternative) == [_general_name(name) for name in names] and _at(self._clock()) < renew_at

    def _sign(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        days: int,
        usage: x509.ObjectIdentifier,
        names: Sequence[str],
    ) -> x509.Certificate:
        now = _at(self._clock())
        authority_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the public key (SubjectPublicKeyInfo) in hex."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def _self_signed(key: ec.EllipticCurvePrivateKey, now: int) -> x509.Certificate:
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_name("beamfleet fleet CA"))
        .issuer_name(_name("beamfleet fleet CA"))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_at(now) - BACKDATED)
        .not_valid_after(_at(now) + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _kept(certificate: x509.Certificate) -> Certificate:
    facts = pki.read_certificate(certificate)
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Certificate(facts.serial, facts.not_before, facts.not_after, der)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
