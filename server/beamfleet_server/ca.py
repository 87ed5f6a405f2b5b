"""Owns one certificate authority of the fleet: its key, what it signs and for how long; never decides who gets a
certificate.

EC P-256 throughout. The CA signs three kinds of certificates: the server's (serverAuth, for the configured names), the
server's own as a client of the broker (CN `_server`), and the devices' (clientAuth, CN = device id, 90 days unless
settings say otherwise). The subject of a CSR is never looked at: the name comes from the token's record."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from beamfleet_bundles import durable, pki
from beamfleet_bundles.names import check_device
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError

DEVICE_LIFE_S = 90 * 86_400
SERVER_LIFE_S = 397 * 86_400
AUTHORITY_DAYS = 20 * 365
LIST_DAYS = 400
"""A server that is down for a month must not lock the fleet out: an expired list does."""
ID_LENGTH = 12
FIRST = "authority"
"""The stem of the files of the authority that the first start makes."""
BACKDATED = timedelta(hours=1)
"""Certificates begin a little in the past, a tenth of their life at most: a device's clock may be behind the
server's."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was signed: `serial` in lower-case hex, dates in Unix seconds, `der` its bytes."""

    serial: str
    not_before: int
    not_after: int
    der: bytes
    authority: str = ""
    """The id of the authority that signed it."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Files of a certificate (PEM) and of its private key (PEM, mode 0600)."""

    certificate: Path
    key: Path


class FleetAuthority:
    """A CA whose files are `STEM.key` and `STEM.pem` in a directory; `open` makes it if it is not there yet."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        directory: Path,
        clock: Clock,
        device_life_s: int = DEVICE_LIFE_S,
        server_life_s: int = SERVER_LIFE_S,
    ) -> None:
        self._key = key
        self.certificate = certificate
        self.id = authority_id(certificate)
        self._directory = directory
        self._clock = clock
        self._device_life_s = device_life_s
        self._server_life_s = server_life_s

    @classmethod
    def open(
        cls,
        directory: Path,
        clock: Clock,
        device_life_s: int = DEVICE_LIFE_S,
        server_life_s: int = SERVER_LIFE_S,
        stem: str = FIRST,
    ) -> "FleetAuthority":
        """Load it. The certificate is written last: without it nothing was signed, and both are made anew."""
        key_path, certificate_path = directory / f"{stem}.key", directory / f"{stem}.pem"
        if not certificate_path.exists():
            _write(directory, stem, ec.generate_private_key(ec.SECP256R1()), clock())
        try:
            key_pem = key_path.read_bytes()
        except OSError as error:
            hint = "bring it back from a backup"
            raise ServerError("server.data_unusable", f"cannot read {key_path}: {error.strerror}", hint) from None
        loaded = serialization.load_pem_private_key(key_pem, None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ServerError("server.data_unusable", f"{key_path} is not an EC key")
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        return cls(loaded, certificate, directory, clock, device_life_s, server_life_s)

    @classmethod
    def create(cls, directory: Path, clock: Clock, device_life_s: int, server_life_s: int) -> "FleetAuthority":
        """A further one, whose files have its id in their names."""
        key = ec.generate_private_key(ec.SECP256R1())
        stem = f"{FIRST}-{key_fingerprint(key.public_key())[:ID_LENGTH]}"
        _write(directory, stem, key, clock())
        return cls.open(directory, clock, device_life_s, server_life_s, stem)

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return _pem(self.certificate)

    @property
    def der(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def issue_device(self, device: str, public_key: ec.EllipticCurvePublicKey) -> Certificate:
        """A certificate for `device`, for as long as such a one is good here; error `name.device`."""
        signed = self._sign(check_device(device), public_key, self._device_life_s, ExtendedKeyUsageOID.CLIENT_AUTH, ())
        facts = pki.read_certificate(signed)
        der = signed.public_bytes(serialization.Encoding.DER)
        return Certificate(facts.serial, facts.not_before, facts.not_after, der, self.id)

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
        """The server's key and certificate for `names` and the local ones; made anew when the names change, when
        another authority has signed it, or at 2/3 of its life."""
        wanted = tuple(dict.fromkeys((*names, *LOCAL_NAMES)))
        pair = KeyPair(self._directory / "server.pem", self._directory / "server.key")
        if not self._good(pair) or names_of(pair) != [_general_name(name) for name in wanted]:
            key = ec.generate_private_key(ec.SECP256R1())
            signed = self._sign(
                wanted[0], key.public_key(), self._server_life_s, ExtendedKeyUsageOID.SERVER_AUTH, wanted
            )
            pair.certificate.unlink(missing_ok=True)
            durable.replace(pair.key, _key_pem(key), 0o600)
            durable.replace(pair.certificate, _pem(signed))
        return pair

    def client_pair(self, name: str) -> KeyPair:
        """The key and certificate with which the server itself is a client under `name`; made anew as that of
        `server_pair`."""
        pair = KeyPair(self._directory / f"client{name}.pem", self._directory / f"client{name}.key")
        if not self._good(pair):
            key = ec.generate_private_key(ec.SECP256R1())
            signed = self._sign(name, key.public_key(), self._server_life_s, ExtendedKeyUsageOID.CLIENT_AUTH, ())
            pair.certificate.unlink(missing_ok=True)
            durable.replace(pair.key, _key_pem(key), 0o600)
            durable.replace(pair.certificate, _pem(signed))
        return pair

    def _good(self, pair: KeyPair) -> bool:
        if not (pair.certificate.exists() and pair.key.exists()):
            return False
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return (
            _signed_by(certificate, self.certificate)
            and _at(self._clock()) < certificate.not_valid_before_utc + life * 2 / 3
        )

    def _sign(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        life_s: int,
        usage: x509.ObjectIdentifier,
        names: Sequence[str],
    ) -> x509.Certificate:
        now, life = _at(self._clock()), timedelta(seconds=life_s)
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(BACKDATED, life / 10))
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
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


def authority_id(certificate: x509.Certificate) -> str:
    """The id of an authority: the beginning of its key's fingerprint."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ServerError("server.data_unusable", "the authority's key is not an EC key")
    return key_fingerprint(key)[:ID_LENGTH]


def names_of(pair: KeyPair) -> list[x509.GeneralName]:
    """The names for which a certificate is good."""
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _write(directory: Path, stem: str, key: ec.EllipticCurvePrivateKey, now: int) -> None:
    durable.replace(directory / f"{stem}.key", _key_pem(key), 0o600)
    durable.replace(directory / f"{stem}.pem", _pem(_self_signed(key, now)))


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _self_signed(key: ec.EllipticCurvePrivateKey, now: int) -> x509.Certificate:
    """Each one has a subject of its own: OpenSSL looks for issuers and revocation lists by that. It is short, since it
    travels in each handshake three times."""
    public_key = key.public_key()
    name = _name(f"fleet CA {key_fingerprint(public_key)[:ID_LENGTH]}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_at(now) - BACKDATED)
        .not_valid_after(_at(now) + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


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
