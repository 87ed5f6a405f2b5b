"""Requests, certificates and the bodies of EST, also as curl and openssl make them."""

import base64
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beamfleet_bundles import pki
from beamfleet_bundles.errors import BundleError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

UNCOMPRESSED = PublicFormat.UncompressedPoint
NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY_KEY = ec.generate_private_key(ec.SECP256R1())


def issue(
    names: list[str],
    key: CertificatePublicKeyTypes,
    issuer: str = "the fleet",
    by: ec.EllipticCurvePrivateKey = AUTHORITY_KEY,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(0x0ABC)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=90))
        .sign(by, hashes.SHA256())
    )


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY = issue(["the fleet"], AUTHORITY_KEY.public_key())
OTHER_AUTHORITY = issue(["the fleet"], OTHER_KEY.public_key(), by=OTHER_KEY)


def refusal(function: object, *arguments: object) -> str:
    assert callable(function)
    with pytest.raises(BundleError) as refused:
        function(*arguments)
    return refused.value.code


# -- keys


def test_a_device_key_is_made_once_and_read_back(tmp_path: Path) -> None:
    made = pki.create_key(tmp_path / "key.pem")
    assert pki.load_key(tmp_path / "key.pem").private_numbers() == made.private_numbers()
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert refusal(pki.create_key, tmp_path / "key.pem") == "pki.key_exists"
    assert refusal(pki.create_key, tmp_path / "missing" / "key.pem") == "pki.storage"


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    assert refusal(pki.load_key, path) == "pki.storage"
    as_pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    p384 = ec.generate_private_key(ec.SECP384R1()).private_bytes(*as_pem)
    for content in (b"", b"no key", p384, rsa.generate_private_key(65537, 2048).private_bytes(*as_pem)):
        path.write_bytes(content)
        assert refusal(pki.load_key, path) == "pki.key_type"


def test_a_pair_is_one_file_of_which_both_parts_are_read_in_any_order(tmp_path: Path) -> None:
    certificate = issue(["pump-7"], KEY.public_key())
    pair = pki.join_pair(certificate, KEY)
    at = pair.index(b"-----BEGIN PRIVATE")
    (tmp_path / "pair.pem").write_bytes(b"some words\n" + pair[at:] + pair[:at])
    for found in (pki.read_pair(pair, "pair.pem"), pki.load_pair(tmp_path / "pair.pem")):
        assert found[0] == certificate
        assert found[1].private_numbers() == KEY.private_numbers()
    strangers = pki.join_pair(certificate, OTHER_KEY)
    assert refusal(pki.read_pair, strangers, "pair.pem") == "pki.not_ours"
    assert refusal(pki.read_pair, pair[at:], "pair.pem") == "pki.certificate"
    assert refusal(pki.read_pair, pair[:-40], "pair.pem") == "pki.key_type"
    assert refusal(pki.load_pair, tmp_path / "none.pem") == "pki.storage"


def test_a_fingerprint_is_what_openssl_makes_of_the_public_key(openssl: str) -> None:
    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert run(openssl, "dgst", "-sha256", "-r", given=der).split()[0].decode() == pki.fingerprint(KEY.public_key())


# -- requests


def test_a_request_proves_its_key() -> None:
    assert pki.read_request(pki.make_request(KEY, "pump-7")) == KEY.public_key()


@pytest.mark.parametrize("device", ["a/b", "", "UPPER", "a" * 64, "#", "a\n"])
def test_a_request_names_a_possible_device(device: str) -> None:
    assert refusal(pki.make_request, KEY, device) == "name.device"


def test_a_request_with_another_key_than_it_is_signed_with_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    mine, foreign = (key.public_key().public_bytes(Encoding.X962, UNCOMPRESSED) for key in (KEY, other))
    assert refusal(pki.read_request, pki.make_request(KEY, "pump-7").replace(mine, foreign)) == "pki.request"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["p384", "rsa"]
)
def test_a_request_for_another_kind_of_key_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    assert refusal(pki.read_request, pki.make_request(key, "pump-7")) == "pki.key_type"


@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    assert refusal(pki.read_request, data) == "pki.request"


# -- certificates


def test_a_certificate_is_known_by_name_serial_and_dates() -> None:
    facts = pki.read_certificate(issue(["pump-7"], KEY.public_key()))
    start = int(NOW.timestamp())
    assert facts == pki.CertificateFacts("pump-7", "abc", start, start + 90 * 86_400)


def test_a_certificate_is_read_from_pem_and_from_der() -> None:
    certificate = issue(["pump-7"], KEY.public_key())
    for encoding in (Encoding.PEM, Encoding.DER):
        assert pki.load_certificate(certificate.public_bytes(encoding)) == certificate
    for garbage in (b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n"):
        assert refusal(pki.load_certificate, garbage) == "pki.certificate"


@pytest.mark.parametrize("names", [[], ["pump-7", "_server"]])
def test_a_certificate_with_no_name_or_two_is_refused(names: list[str]) -> None:
    assert refusal(pki.read_certificate, issue(names, KEY.public_key())) == "pki.certificate"


def test_a_device_takes_only_its_own_certificate_of_its_own_fleet() -> None:
    good = issue(["pump-7"], KEY.public_key())
    assert pki.check_issued(good, KEY, "pump-7", [OTHER_AUTHORITY, AUTHORITY]).serial == "abc"
    other_key = ec.generate_private_key(ec.SECP256R1())
    for wrong in (
        issue(["pump-8"], KEY.public_key()),
        issue(["pump-7"], other_key.public_key()),
        issue(["pump-7"], KEY.public_key(), by=other_key),
        issue(["pump-7"], KEY.public_key(), issuer="another fleet"),
    ):
        assert refusal(pki.check_issued, wrong, KEY, "pump-7", [AUTHORITY]) == "pki.not_ours"


def test_several_authorities_are_read_from_one_file() -> None:
    both = AUTHORITY.public_bytes(Encoding.PEM) + b"words\n" + OTHER_AUTHORITY.public_bytes(Encoding.PEM)
    assert pki.load_certificates(both) == [AUTHORITY, OTHER_AUTHORITY]
    for garbage in (b"", b"no certificate", both[:100]):
        assert refusal(pki.load_certificates, garbage) == "pki.certificate"


# -- bodies


@given(st.binary(min_size=1, max_size=500))
def test_a_body_survives_the_journey(der: bytes) -> None:
    body = pki.encode_body(der)
    assert pki.decode_body(body, 1_000) == der
    assert all(len(line) <= 64 for line in body.split(b"\n"))


@pytest.mark.parametrize("body", [b"", b" \n", b"not base64!", b"YQ", b"YQ==YQ==", b"\xff\xff", b"=" * 100])
def test_a_body_that_is_not_base64_is_refused(body: bytes) -> None:
    assert refusal(pki.decode_body, body, 1_000) == "pki.encoding"


def test_a_body_above_its_limit_is_refused() -> None:
    body = pki.encode_body(b"x" * 30)
    assert pki.decode_body(body, len(body)) == b"x" * 30
    assert refusal(pki.decode_body, body, len(body) - 1) == "pki.encoding"


def test_certificates_survive_the_journey() -> None:
    mine = issue(["pump-7"], KEY.public_key())
    assert pki.unpack_certificates(pki.pack_certificates([mine])) == [mine]
    assert set(pki.unpack_certificates(pki.pack_certificates([mine, AUTHORITY]))) == {mine, AUTHORITY}


@given(st.binary(max_size=300))
def test_bytes_that_hold_no_certificates_are_refused(data: bytes) -> None:
    assert refusal(pki.unpack_certificates, data) == "pki.certificate"


def test_more_certificates_than_anybody_needs_are_refused() -> None:
    many = [issue([f"pump-{number}"], KEY.public_key()) for number in range(pki.MAX_CERTIFICATES + 1)]
    assert refusal(pki.unpack_certificates, pki.pack_certificates(many)) == "pki.certificate"


# -- an independent implementation


@pytest.fixture
def openssl() -> str:
    found = shutil.which("openssl")
    assert found, "openssl is part of every machine that this runs on"
    return found


def run(*command: str, given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, capture_output=True, check=True, timeout=30).stdout


def test_a_request_of_openssl_is_read(openssl: str, tmp_path: Path) -> None:
    path = str(tmp_path / "key.pem")
    run(openssl, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    pem = run(openssl, "req", "-new", "-key", path, "-subj", "/CN=whatever")
    body = b"".join(pem.split(b"-----")[2].split())
    assert pki.read_request(pki.decode_body(body, pki.MAX_REQUEST)) == pki.load_key(Path(path)).public_key()


def test_openssl_reads_our_request(openssl: str) -> None:
    said = run(openssl, "req", "-inform", "DER", "-noout", "-verify", "-subject", given=pki.make_request(KEY, "pump-7"))
    assert b"pump-7" in said


def test_openssl_reads_our_answer_and_we_read_its(openssl: str, tmp_path: Path) -> None:
    mine = issue(["pump-7"], KEY.public_key())
    answer = pki.encode_body(pki.pack_certificates([mine]))
    printed = run(openssl, "pkcs7", "-inform", "DER", "-print_certs", given=base64.b64decode(answer))
    assert pki.load_certificate(printed[printed.index(b"-----BEGIN") :]) == mine
    (tmp_path / "cert.pem").write_bytes(mine.public_bytes(Encoding.PEM))
    theirs = run(openssl, "crl2pkcs7", "-nocrl", "-certfile", str(tmp_path / "cert.pem"), "-outform", "DER")
    assert pki.unpack_certificates(theirs) == [mine]
