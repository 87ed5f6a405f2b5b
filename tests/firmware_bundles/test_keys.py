"""Key files of the TUF roles."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_bundles import keys
from beamfleet_bundles.errors import BundleError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from securesystemslib.signer import CryptoSigner


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as refused:
        keys.load(path)
    return refused.value.code


def test_a_generated_key_signs_what_its_public_half_verifies(tmp_path: Path) -> None:
    keys.generate(tmp_path / "root.key")
    signer = keys.load(tmp_path / "root.key")
    keys.parse_public(keys.public(signer)).verify_signature(signer.sign(b"text"), b"text")


def test_a_key_file_is_pem_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.generate(tmp_path / "root.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "root.key").stat().st_mode) == 0o600
    assert (tmp_path / "root.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    keys.generate(tmp_path / "root.key")
    before = (tmp_path / "root.key").read_bytes()
    with pytest.raises(BundleError) as refused:
        keys.generate(tmp_path / "root.key")
    assert refused.value.code == "trust.key_exists"
    assert (tmp_path / "root.key").read_bytes() == before


def test_a_key_that_cannot_be_written_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"missing/root\.key") as refused:
        keys.generate(tmp_path / "missing" / "root.key")
    assert refused.value.code == "trust.storage"


def test_a_missing_key_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.key") == "trust.key_missing"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    keys.generate(tmp_path / "root.key")
    (tmp_path / "root.key").chmod(mode)
    assert refusal(tmp_path / "root.key") == "trust.key_permissions"


def on_curve(curve: ec.EllipticCurve) -> bytes:
    return ec.generate_private_key(curve).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\n", on_curve(ec.SECP384R1()), b"\0" * 100_000]
)
def test_what_is_no_key_of_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "root.key").write_bytes(content)
    (tmp_path / "root.key").chmod(0o600)
    assert refusal(tmp_path / "root.key") == "trust.key_unreadable"


PASSPHRASE = "five words that do not rhyme"


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    made = keys.generate(tmp_path / "root.key", PASSPHRASE)
    asked: list[str] = []

    def ask(secret: str) -> str:
        asked.append(secret)
        return PASSPHRASE

    assert keys.load(tmp_path / "root.key", ask).public_key == made.public_key
    assert asked == ["passphrase"]
    assert b"ENCRYPTED" in (tmp_path / "root.key").read_bytes()
    assert refusal(tmp_path / "root.key") == "trust.key_passphrase"
    for wrong in ("", "another passphrase", PASSPHRASE + " "):
        with pytest.raises(BundleError) as refused:
            keys.load(tmp_path / "root.key", lambda _, wrong=wrong: wrong)  # type: ignore[misc]
        assert refused.value.code == "trust.key_passphrase"


def test_a_short_passphrase_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as refused:
        keys.generate(tmp_path / "root.key", "short")
    assert refused.value.code == "trust.key_passphrase"
    assert list(tmp_path.iterdir()) == []


def test_a_p256_key_of_others_signs_as_well(tmp_path: Path) -> None:
    (tmp_path / "root.key").write_bytes(on_curve(ec.SECP256R1()))
    (tmp_path / "root.key").chmod(0o600)
    signer = keys.load(tmp_path / "root.key")
    key = keys.parse_public(keys.public(signer))
    assert key.scheme == "ecdsa-sha2-nistp256"
    key.verify_signature(signer.sign(b"text"), b"text")


@pytest.mark.parametrize("make", [CryptoSigner.generate_ed25519, CryptoSigner.generate_ecdsa])
def test_a_public_half_is_read_from_its_file_and_from_pem(tmp_path: Path, make: Callable[[], CryptoSigner]) -> None:
    signer = make()
    key = keys.named(signer.public_key, "Anna Ö. (safe 2)")
    keys.write_public(tmp_path / "anna.pub", key)
    assert keys.read_public(tmp_path / "anna.pub") == key
    assert keys.name_of(key) == "Anna Ö. (safe 2)"
    pem = signer._private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "anna.pem").write_bytes(pem)
    assert keys.read_public(tmp_path / "anna.pem") == signer.public_key


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 16_000, b"-----BEGIN PUBLIC KEY-----\nAAAA\n", b"\xff\0"])
def test_a_file_that_is_no_public_half_is_told_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pub").write_bytes(content)
    with pytest.raises(BundleError, match=r"x\.pub") as refused:
        keys.read_public(tmp_path / "x.pub")
    assert refused.value.code == "trust.key_unreadable"


PUBLIC = keys.public(CryptoSigner.generate_ed25519())
P256 = keys.public(CryptoSigner.generate_ecdsa())
OTHER = keys.public(CryptoSigner.generate_ed25519())


@pytest.mark.parametrize(
    "described",
    [
        None,
        [],
        {},
        {**PUBLIC, "keyid": OTHER["keyid"]},
        {**PUBLIC, "keyval": {"public": "00"}},
        {**PUBLIC, "keyval": {"public": "not hexadecimal"}},
        {**PUBLIC, "keyval": {"public": PUBLIC["keyval"]["public"], "private": "00"}},
        {**PUBLIC, "scheme": "rsassa-pss-sha256"},
        {**PUBLIC, "more": 1},
        {**PUBLIC, keys.NAME: ""},
        {**PUBLIC, keys.NAME: "x" * 65},
        {**PUBLIC, keys.NAME: "a\x1b[31m"},
        {**PUBLIC, keys.NAME: 7},
        {**P256, "keyid": OTHER["keyid"]},
        {**P256, "keyval": {"public": "-----BEGIN PUBLIC KEY-----"}},
        {**P256, "keyval": {"public": P256["keyval"]["public"] + "\n" + P256["keyval"]["public"]}},
        {**P256, "keytype": "ecdsa-sha2-nistp256"},
    ],
)
def test_a_public_key_that_is_not_what_its_id_says_is_refused(described: object) -> None:
    with pytest.raises(BundleError) as refused:
        keys.parse_public(described)
    assert refused.value.code == "trust.key_unreadable"
