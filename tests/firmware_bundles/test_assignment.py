"""Assignments: made by the director, believed by one device, able only to choose."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from beamfleet_bundles import assignment, chain
from beamfleet_bundles.assignment import Assignment, DeviceFacts, check_fit, check_floor, check_match, sign, verify
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from tests.support.repository import NOW, PRODUCT, TARGET, Repository, altered, manifest, resign

REPO = Repository()
(DIRECTOR,) = REPO.keys["director"]
TARGETS = chain.verify_targets(REPO.current["targets"], chain.verify_root(REPO.root, None))
FACTS = chain.verify_chain([REPO.root], REPO.current["targets"], {PRODUCT: REPO.current[PRODUCT]}, NOW).facts
WANTED = FACTS[f"{PRODUCT}/1.1.0/{TARGET}/manifest"]
EXPIRES = NOW + assignment.LIFETIME
NONCE = "0123456789abcdef" * 2
GIVEN = Assignment(
    device="pump-7",
    app="main",
    sequence=1000,
    attempt=1,
    time=int(NOW.timestamp()),
    path=WANTED.path,
    length=WANTED.length,
    sha256=WANTED.sha256,
)
HOLD = replace(GIVEN, path=None, length=0, sha256="")


def read(data: bytes, **changes: Any) -> Assignment:
    known: dict[str, Any] = {"device": "pump-7", "app": "main", "last": 0, "now": NOW}
    return verify(data, TARGETS, **{**known, **changes})


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as refused:
        action()
    return refused.value.code


def signed(meant: Assignment = GIVEN) -> bytes:
    return sign(meant, DIRECTOR, EXPIRES)


def forged(change: Callable[[dict[str, Any]], None]) -> bytes:
    """An assignment with another content, well signed by the director."""
    content = json.loads(signed())
    change(content["signed"])
    document: Metadata[Targets] = Metadata.from_dict(content)
    document.sign(DIRECTOR)
    return document.to_bytes()


PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize(
    "meant",
    [
        GIVEN,
        HOLD,
        replace(GIVEN, nonce=NONCE, attempt=3),
        replace(GIVEN, force=True),
        replace(GIVEN, traceparent=PARENT),
    ],
)
def test_an_assignment_reads_back_as_it_was_meant(meant: Assignment) -> None:
    assert read(signed(meant)) == meant


def test_force_is_written_only_when_it_is_meant_and_read_as_false_where_it_is_missing() -> None:
    assert b'"force"' not in signed()
    assert read(signed()).force is False
    assert read(forged(field("force", value=False))).force is False
    assert json.loads(signed(replace(GIVEN, force=True)))["signed"]["beamfleet"]["force"] is True


def test_the_span_of_a_trace_is_written_only_where_somebody_traces() -> None:
    assert b"traceparent" not in signed()
    assert json.loads(signed(replace(GIVEN, traceparent=PARENT)))["signed"]["beamfleet"]["traceparent"] == PARENT


def test_an_assignment_is_small() -> None:
    assert len(signed(replace(GIVEN, nonce=NONCE))) < 1_100
    assert len(signed(replace(GIVEN, nonce=NONCE, traceparent=PARENT))) < 1_200


def test_a_targets_document_of_the_director_is_what_an_assignment_is() -> None:
    document = Metadata[Targets].from_bytes(signed())
    assert document.signed.version == 1000
    assert list(document.signed.targets) == [WANTED.path]
    assert document.signed.unrecognized_fields["beamfleet"] == {
        "v": 1,
        "device": "pump-7",
        "app": "main",
        "attempt": 1,
        "time": int(NOW.timestamp()),
        "nonce": None,
    }


# -- refused: not the director's


def test_an_altered_byte_is_refused() -> None:
    assert refusal(lambda: read(altered(signed()))) == "assignment.signature"


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", PRODUCT])
def test_no_other_role_can_assign(role: str) -> None:
    assert refusal(lambda: read(resign(signed(), REPO.keys[role]))) == "assignment.signature"


def test_nobody_can_assign_without_a_signature() -> None:
    assert refusal(lambda: read(resign(signed(), []))) == "assignment.signature"
    assert refusal(lambda: read(resign(signed(), [CryptoSigner.generate_ed25519()]))) == "assignment.signature"


def test_a_director_that_was_replaced_cannot_assign() -> None:
    targets = Metadata[Targets].from_bytes(REPO.current["targets"]).signed
    targets.revoke_key(DIRECTOR.public_key.keyid, "director")
    targets.add_key(CryptoSigner.generate_ed25519().public_key, "director")
    known: dict[str, Any] = {"device": "pump-7", "app": "main", "last": 0, "now": NOW}
    assert refusal(lambda: verify(signed(), targets, **known)) == "assignment.signature"


# -- refused: not for here, not for now


def test_an_assignment_for_another_device_or_application_is_refused() -> None:
    assert refusal(lambda: read(signed(), device="pump-8")) == "assignment.wrong_device"
    assert refusal(lambda: read(signed(), app="second")) == "assignment.wrong_app"


def test_an_older_sequence_is_a_replay_and_the_same_one_is_not() -> None:
    assert read(signed(), last=1000) == GIVEN
    assert refusal(lambda: read(signed(), last=1001)) == "assignment.replayed"


def test_an_expired_assignment_is_refused() -> None:
    assert read(signed(), now=EXPIRES - timedelta(seconds=1)) == GIVEN
    assert refusal(lambda: read(signed(), now=EXPIRES)) == "assignment.expired"
    assert refusal(lambda: read(signed(), now=datetime(2040, 1, 1, tzinfo=UTC))) == "assignment.expired"


def test_a_pulled_assignment_must_answer_the_nonce_and_a_pushed_one_need_not() -> None:
    answer = signed(replace(GIVEN, nonce=NONCE))
    assert read(answer, nonce=NONCE).nonce == NONCE
    assert read(answer).nonce == NONCE
    assert refusal(lambda: read(answer, nonce="f" * 32)) == "assignment.nonce"
    assert refusal(lambda: read(signed(), nonce=NONCE)) == "assignment.nonce"


# -- refused: not an assignment


def test_an_assignment_above_its_size_is_not_read() -> None:
    assert refusal(lambda: read(signed() + b" " * assignment.MAX_SIZE)) == "assignment.too_large"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 8_000, b"1" * 8_000, REPO.root])
def test_what_is_not_a_targets_document_is_refused(data: bytes) -> None:
    assert refusal(lambda: read(data)) == "assignment.malformed"


def two_targets(content: dict[str, Any]) -> None:
    content["targets"][f"{PRODUCT}/1.0.0/{TARGET}/manifest"] = dict(next(iter(content["targets"].values())))


def other_path(content: dict[str, Any]) -> None:
    content["targets"]["etc/passwd"] = content["targets"].pop(WANTED.path)


def field(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["beamfleet"].update({name: value})


def target(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["targets"][WANTED.path].update(changes)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (two_targets, "assignment.malformed"),
        (other_path, "name.path"),
        (lambda content: content.pop("beamfleet"), "assignment.malformed"),
        (lambda content: content.update(more=1), "assignment.malformed"),
        (lambda content: content.update(beamfleet=[]), "assignment.malformed"),
        (lambda content: content.update(delegations={"keys": {}, "roles": []}), "assignment.malformed"),
        (lambda content: content.update(version=2**53), "assignment.malformed"),
        (lambda content: content.update(version=True), "assignment.malformed"),
        (lambda content: content["beamfleet"].pop("device"), "assignment.malformed"),
        (field("v", 2), "assignment.malformed"),
        (field("more", 1), "assignment.malformed"),
        (field("device", 7), "assignment.malformed"),
        (field("device", "a/b"), "name.device"),
        (field("device", "#"), "name.device"),
        (field("app", "../main"), "name.app"),
        (field("attempt", 0), "assignment.malformed"),
        (field("attempt", "1"), "assignment.malformed"),
        (field("time", -1), "assignment.malformed"),
        (field("nonce", "short"), "assignment.malformed"),
        (field("force", 1), "assignment.malformed"),
        (field("traceparent", ""), "assignment.malformed"),
        (field("traceparent", PARENT.replace("01", "00", 1)), "assignment.malformed"),
        (field("traceparent", f"00-{'0' * 32}-{'b' * 16}-01"), "assignment.malformed"),
        (field("traceparent", PARENT + "-more"), "assignment.malformed"),
        (field("nonce", NONCE.upper()), "assignment.malformed"),
        (target(length=0), "assignment.malformed"),
        (target(hashes={"sha256": "0"}), "assignment.malformed"),
        (target(hashes={"sha512": "0" * 128}), "assignment.malformed"),
        (target(hashes={"sha256": "0" * 64, "md5": "00"}), "assignment.malformed"),
        (target(custom={"command": "rm"}), "assignment.malformed"),
    ],
)
def test_even_the_director_cannot_say_more_than_an_assignment(change: Any, code: str) -> None:
    assert refusal(lambda: read(forged(change))) == code


@pytest.mark.parametrize(
    "changes", [{"attempt": 0}, {"time": 0}, {"nonce": "xyz"}, {"length": 0}, {"sha256": ""}, {"sequence": 2**53}]
)
def test_what_no_device_would_accept_is_not_signed(changes: dict[str, Any]) -> None:
    assert refusal(lambda: signed(replace(GIVEN, **changes))) == "assignment.malformed"


def test_a_hold_with_the_rest_of_a_target_is_not_signed() -> None:
    assert refusal(lambda: signed(replace(GIVEN, path=None))) == "assignment.malformed"


@given(st.binary(max_size=2_000))
def test_no_bytes_make_the_reader_stumble(data: bytes) -> None:
    assert refusal(lambda: read(data)).startswith("assignment.")


@given(st.data())
def test_no_single_changed_byte_is_accepted_as_something_else(data: st.DataObject) -> None:
    good = SIGNED
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = good[:at] + bytes([byte]) + good[at + 1 :]
    assert outcome(changed) in (GIVEN, "refused")  # a changed unsigned space leaves it as it was


SIGNED = signed()


def outcome(data: bytes) -> Assignment | str:
    try:
        return read(data)
    except BundleError:
        return "refused"


# -- only a choice among what products sign


def test_an_assignment_of_exactly_the_signed_target_matches() -> None:
    check_match(GIVEN, WANTED)


@pytest.mark.parametrize(
    "other",
    [
        replace(GIVEN, sha256="0" * 64),
        replace(GIVEN, length=GIVEN.length + 1),
        replace(GIVEN, path=f"{PRODUCT}/1.0.0/{TARGET}/manifest"),
        HOLD,
    ],
)
def test_an_assignment_of_anything_else_does_not_match(other: Assignment) -> None:
    assert refusal(lambda: check_match(other, WANTED)) == "assignment.mismatch"


def facts_of(target: str) -> Facts:
    repo = Repository(releases=[])
    return repo.release(manifest(target=target))


DEVICE = DeviceFacts("x86_64", "glibc", "2.36", None, 1)
PI = DeviceFacts("aarch64", "musl", "", "rpi4", 1)


def test_a_release_fits_the_device_that_it_was_built_for() -> None:
    check_fit(WANTED, DEVICE)
    check_fit(facts_of("aarch64-musl-otp27-rpi4"), PI)
    check_fit(facts_of("aarch64-musl-otp27"), PI)
    check_fit(WANTED, replace(DEVICE, libc_version=None, agent=None))


@pytest.mark.parametrize(
    ("target", "device", "code"),
    [
        (TARGET, replace(DEVICE, arch="aarch64"), "wrong_target"),
        (TARGET, replace(DEVICE, libc="musl"), "wrong_target"),
        ("aarch64-musl-otp27-rpi4", replace(PI, hardware="rpi5"), "wrong_hardware"),
        ("aarch64-musl-otp27-rpi4", replace(PI, hardware=None), "wrong_hardware"),
        (TARGET, replace(DEVICE, libc_version="2.33"), "old_libc"),
        (TARGET, replace(DEVICE, libc_version="2.4"), "old_libc"),
        ("x86_64-glibc-otp24", DEVICE, "old_otp"),
        (TARGET, replace(DEVICE, agent=0), "old_agent"),
    ],
)
def test_a_release_that_does_not_fit_is_refused_by_what_is_wrong(target: str, device: DeviceFacts, code: str) -> None:
    assert refusal(lambda: check_fit(facts_of(target), device)) == f"assignment.{code}"


@pytest.mark.parametrize("version", ["2.34", "2.36-9+deb12u10", "2.100", "3", "2.34.1"])
def test_libc_versions_are_compared_as_numbers(version: str) -> None:
    check_fit(WANTED, replace(DEVICE, libc_version=version))


def test_a_missing_library_is_named() -> None:
    with pytest.raises(BundleError, match=r"libssl\.so\.3") as refused:
        check_fit(WANTED, DEVICE, ("libssl.so.3",))
    assert refused.value.code == "assignment.missing_library"


def test_below_the_floor_nothing_is_installed() -> None:
    check_floor(WANTED, WANTED.custom.counter)
    assert refusal(lambda: check_floor(WANTED, WANTED.custom.counter + 1)) == "assignment.below_floor"
