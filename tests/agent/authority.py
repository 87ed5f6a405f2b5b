"""A fleet's certificate authority, made for one test: certificates for a server on loopback and for devices."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Writes `ca.pem` into `folder`; `issue` writes pairs beside it."""

    def __init__(self, folder: Path) -> None:
        self._name = f"test fleet {folder.name}"
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, 0))
        self.path = folder / "ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, ends: datetime | None = None) -> tuple[Path, Path]:
        """(certificate, key) of a client, or of a server on 127.0.0.1; good for a day, or for the one before `ends`."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_path.write_bytes(self.sign(name, key.public_key(), ends).public_bytes(Encoding.PEM))
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cert_path, key_path

    def sign(self, name: str, key: ec.EllipticCurvePublicKey, ends: datetime | None = None) -> x509.Certificate:
        """A certificate of `name` for this key."""
        return self._sign(name, key, x509.BasicConstraints(False, None), ends)

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        constraints: x509.BasicConstraints,
        ends: datetime | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC) if ends is None else ends - timedelta(days=1)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
