"""Evidence in its envelope: only a signed recipient opens it, and nobody changes it unseen."""

import json
from pathlib import Path

import pytest
from beamfleet_bundles import chain, drafts, recipients, sealing
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.recipients import Recipient
from beamfleet_bundles.sealing import CHUNK, TAG, seal, unseal
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tests.support.repository import NOW, Repository, resign

ANNA, BEN, EVE = (X25519PrivateKey.generate() for _ in range(3))
BOTH = [recipients.of(ANNA, "anna"), recipients.of(BEN, "ben")]
PASSPHRASE = "correct horse battery"


def sealed(content: bytes) -> bytes:
    return b"".join(seal(content, "gw-1", "c0ffee", BOTH))


def refusal(data: bytes, key: X25519PrivateKey = ANNA) -> str:
    with pytest.raises(BundleError) as refused:
        unseal(data, key)
    return refused.value.code


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_each_recipient_opens_it(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    for key in (ANNA, BEN):
        header, opened = unseal(sealed(content), key)
        assert (header.device, header.id, opened) == ("gw-1", "c0ffee", content)


def test_nobody_else_does_and_nothing_of_it_shows() -> None:
    data = sealed(b"hunter2" * 1000)
    assert b"hunter2" not in data
    assert refusal(data, EVE) == "sealing.other_key"
    header = sealing.read_header(data[:2000])
    renamed = data.replace(header.keys[0].key.encode(), recipients.of(EVE, "eve").id.encode())
    assert refusal(renamed, EVE) == "sealing.damaged"


def test_chunks_are_not_left_out_doubled_moved_or_put_at_the_end() -> None:
    data = sealed(b"a" * CHUNK + b"b" * CHUNK + b"c" * 10)
    start, size = data.index(b"\n", len(sealing.MAGIC)) + 1, CHUNK + TAG
    head, one, two, rest = data[:start], data[start:][:size], data[start + size :][:size], data[start + 2 * size :]
    whole = one + two + rest
    for wrong in (b"", one, one + two, two + one + rest, one + whole, rest, whole[:-1], whole + two, whole + rest):
        assert refusal(head + wrong) == "sealing.damaged"


def test_it_does_not_pass_for_evidence_of_another_device() -> None:
    assert refusal(sealed(b"x").replace(b'"gw-1"', b'"gw-2"')) == "sealing.damaged"
    assert refusal(sealed(b"x").replace(b'"c0ffee"', b'"c0ffef"')) == "sealing.damaged"


@given(st.integers(0, 2000), st.integers(1, 255))
def test_no_changed_byte_goes_unseen(place: int, change: int) -> None:
    data = bytearray(sealed(b"x" * 1500))
    data[place % len(data)] ^= change
    assert refusal(bytes(data)) in {"sealing.malformed", "sealing.other_key", "sealing.damaged"}


@given(st.binary(max_size=300))
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    assert refusal(data) == "sealing.malformed"
    assert refusal(sealing.MAGIC + data) in {"sealing.malformed", "sealing.damaged", "sealing.other_key"}


# --- who they are


def test_recipients_are_signed_with_targets_and_outlive_what_else_changes() -> None:
    repo = Repository(releases=())
    top = drafts.next_targets(repo.current["targets"], "targets", NOW, 9)
    recipients.write(top, BOTH)
    repo.put("targets", drafts.signed(drafts.unsigned(top), repo.keys["targets"][0]))
    targets = chain.parse_top_targets(repo.current["targets"]).signed
    assert recipients.read(targets) == tuple(BOTH)
    recipients.write(targets, [])
    assert recipients.KEY not in targets.unrecognized_fields
    assert recipients.read(targets) == ()


@pytest.mark.parametrize(
    "said",
    [
        7, {"recipients": 1}, {"recipients": [], "more": 1}, {"recipients": [{"name": "a"}]},
        {"recipients": [{"name": "a", "public": "00"}]}, {"recipients": [{"name": "", "public": "0" * 64}]},
        {"recipients": [{"name": "a", "public": "0" * 64}, {"name": "b", "public": "0" * 64}]},
        {"recipients": [{"name": "a", "public": "0" * 64}, {"name": "a", "public": "1" * 64}]},
        {"recipients": [{"name": f"n{n}", "public": f"{n:064x}"} for n in range(17)]},
        {"recipients": [{"name": "of low order", "public": "0" * 64}]},
    ],
)  # fmt: skip
def test_what_is_signed_about_evidence_is_a_closed_schema(said: object) -> None:
    repo = Repository(releases=())
    wrong = resign(repo.current["targets"], repo.keys["targets"], unrecognized_fields={recipients.KEY: said})
    with pytest.raises(BundleError) as refused:
        chain.verify_targets(wrong, chain.verify_root(repo.root, None))
    assert refused.value.code == "evidence.schema"


def test_a_key_is_an_encrypted_file_and_its_public_half_another(tmp_path: Path) -> None:
    path = tmp_path / "anna.key"
    made = recipients.generate(path, "anna", PASSPHRASE)
    recipients.write_public(tmp_path / "anna.pub", made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert recipients.read_public(tmp_path / "anna.pub") == made
    private = recipients.load(path, lambda _: PASSPHRASE)
    assert recipients.of(private, "anna") == made
    with pytest.raises(BundleError, match="does not open"):
        recipients.load(path, lambda _: "wrong")
    with pytest.raises(BundleError, match="exists") as refused:
        recipients.generate(path, "anna")
    assert refused.value.code == "trust.key_exists"


def test_other_files_are_no_keys_for_evidence(tmp_path: Path) -> None:
    from beamfleet_bundles import keys

    keys.generate(tmp_path / "root.key")
    with pytest.raises(BundleError, match="no key for evidence"):
        recipients.load(tmp_path / "root.key")
    for content in ("{", json.dumps({"name": "a"}), json.dumps({"name": "a\n", "public": "0" * 64}), "\xff"):
        (tmp_path / "x.pub").write_text(content, encoding="latin-1")
        with pytest.raises(BundleError) as refused:
            recipients.read_public(tmp_path / "x.pub")
        assert refused.value.code == "trust.key_unreadable"
    with pytest.raises(BundleError) as refused:
        recipients.read_public(tmp_path / "none.pub")
    assert refused.value.code == "trust.key_missing"


def test_a_recipient_has_an_id_of_its_own() -> None:
    assert Recipient(name="a", public="0" * 64).id != Recipient(name="a", public="1" * 64).id
