"""Key files of the TUF roles."""

import os
import stat
from pathlib import Path

import pytest
from beamfleet_bundles import keys
from beamfleet_bundles.errors import BundleError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
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


def of_another_kind() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted() -> bytes:
    private = CryptoSigner.generate_ed25519()._private_key
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\n", of_another_kind(), encrypted(), b"\0" * 100_000]
)
def test_what_is_not_a_plain_ed25519_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "root.key").write_bytes(content)
    (tmp_path / "root.key").chmod(0o600)
    assert refusal(tmp_path / "root.key") == "trust.key_unreadable"


PUBLIC = keys.public(CryptoSigner.generate_ed25519())
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
    ],
)
def test_a_public_key_that_is_not_what_its_id_says_is_refused(described: object) -> None:
    with pytest.raises(BundleError) as refused:
        keys.parse_public(described)
    assert refused.value.code == "trust.key_unreadable"
