"""The fleet CA, judged by OpenSSL."""

import subprocess
from pathlib import Path

import pytest
from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError
from beamfleet_server.ca import FleetAuthority, KeyPair
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

NOW = 1_800_000_000
DAY = 86_400


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


def verified(authority: Path, certificate: Path, purpose: str, at: int = NOW) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(at), "-CAfile", str(authority)]
    return subprocess.run([*command, str(certificate)], capture_output=True).returncode == 0


def issue(authority: FleetAuthority, device: str, path: Path) -> Path:
    made = authority.issue_device(device, ec.generate_private_key(ec.SECP256R1()).public_key())
    path.write_bytes(x509.load_der_x509_certificate(made.der).public_bytes(Encoding.PEM))
    return path


def test_it_is_made_once_and_found_again(tmp_path: Path) -> None:
    first = FleetAuthority.open(tmp_path, Clock())
    assert FleetAuthority.open(tmp_path, Clock()).pem == first.pem
    assert (tmp_path / "authority.key").stat().st_mode & 0o777 == 0o600


def test_a_kill_between_key_and_certificate_leaves_an_authority_that_works(tmp_path: Path) -> None:
    FleetAuthority.open(tmp_path, Clock())
    (tmp_path / "authority.pem").unlink()
    authority = FleetAuthority.open(tmp_path, Clock())
    certificate = issue(authority, "dev-1", tmp_path / "dev-1.pem")
    assert verified(tmp_path / "authority.pem", certificate, "sslclient")


def test_a_device_certificate_is_for_clients_alone_and_ends_after_90_days(tmp_path: Path) -> None:
    authority = FleetAuthority.open(tmp_path, Clock())
    certificate = issue(authority, "dev-1", tmp_path / "dev-1.pem")
    assert verified(tmp_path / "authority.pem", certificate, "sslclient")
    assert not verified(tmp_path / "authority.pem", certificate, "sslserver")
    assert verified(tmp_path / "authority.pem", certificate, "sslclient", NOW + 90 * DAY - 1)
    assert not verified(tmp_path / "authority.pem", certificate, "sslclient", NOW + 90 * DAY + 1)


@pytest.mark.parametrize("name", ["", "a/b", "_server", "Dev", "dev 1", "x" * 64])
def test_a_name_that_is_no_device_id_is_never_signed(tmp_path: Path, name: str) -> None:
    authority = FleetAuthority.open(tmp_path, Clock())
    with pytest.raises(BundleError):
        authority.issue_device(name, ec.generate_private_key(ec.SECP256R1()).public_key())


def names_of(pair: KeyPair) -> list[str]:
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in alternative]


def test_the_servers_certificate_is_for_its_names_and_this_machine(tmp_path: Path) -> None:
    pair = FleetAuthority.open(tmp_path, Clock()).server_pair(["fleet.example", "10.0.0.1"])
    assert names_of(pair) == ["fleet.example", "10.0.0.1", "localhost", "127.0.0.1", "::1"]
    assert verified(tmp_path / "authority.pem", pair.certificate, "sslserver")
    assert not verified(tmp_path / "authority.pem", pair.certificate, "sslclient")
    assert pair.key.stat().st_mode & 0o777 == 0o600


def test_it_is_kept_until_names_change_or_two_thirds_of_its_life_are_over(tmp_path: Path) -> None:
    clock = Clock()
    authority = FleetAuthority.open(tmp_path, clock)
    first = authority.server_pair(["fleet.example"]).certificate.read_bytes()
    assert authority.server_pair(["fleet.example"]).certificate.read_bytes() == first
    clock.now += 200 * DAY
    assert authority.server_pair(["fleet.example"]).certificate.read_bytes() == first
    clock.now += 100 * DAY
    second = authority.server_pair(["fleet.example"]).certificate.read_bytes()
    assert second != first
    assert authority.server_pair(["other.example"]).certificate.read_bytes() != second


def test_half_a_pair_is_made_anew(tmp_path: Path) -> None:
    authority = FleetAuthority.open(tmp_path, Clock())
    authority.server_pair([]).key.unlink()
    pair = authority.server_pair([])
    key = pki.load_key(pair.key)
    assert x509.load_pem_x509_certificate(pair.certificate.read_bytes()).public_key() == key.public_key()
