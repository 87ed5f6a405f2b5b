"""A check for updates: what is asked for, what is kept, and where it stops when something is not right."""

import json
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from tests.conformance.stage import ALL, CONTENT, ONLINE, TOP, Client, Play

FIRST = {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}


def test_roles_are_asked_for_in_the_order_of_the_specification(client: Client, play: Play) -> None:
    assert client.refresh(play) == 0
    assert play.asked == ["2.root", "timestamp", "1.snapshot", "1.targets"]


def test_nothing_is_asked_for_before_the_first_check(client: Client, play: Play) -> None:
    assert play.asked == []
    assert client.trusted() == {"root": 1}


def test_what_is_known_is_not_asked_for_again(client: Client, play: Play) -> None:
    assert client.refresh(play) == client.refresh(play) == 0
    assert play.asked[4:] == ["2.root", "timestamp"]


def test_metadata_is_kept_byte_for_byte(client: Client, play: Play) -> None:
    for role in ("timestamp", "targets"):
        pretty = json.dumps(json.loads(play.current(role)), indent=3, ensure_ascii=False).encode() + b" \n\n"
        play.served[play.place(role, 1)] = pretty
    assert client.refresh(play) == 0
    assert {role: client.holds(role) for role in TOP} == {role: play.current(role) for role in TOP}


def test_a_target_that_nobody_signs_still_brings_the_metadata_up_to_date(client: Client, play: Play) -> None:
    assert client.download(play, "no such thing") == 1
    assert play.asked == ["2.root", "timestamp", "1.snapshot", "1.targets"]
    assert client.trusted() == FIRST


def without_version(root: dict[str, Any]) -> None:
    del root["signed"]["version"]


def with_a_foreign_signature(root: dict[str, Any]) -> None:
    root["signatures"][0]["sig"] = "00" * 64


def with_no_signature(root: dict[str, Any]) -> None:
    root["signatures"] = []


@pytest.mark.parametrize("spoil", [without_version, with_a_foreign_signature, with_no_signature])
def test_nothing_is_asked_for_from_a_root_that_is_not_one(fresh: Client, play: Play, spoil: Any) -> None:
    root = json.loads(play.current("root"))
    spoil(root)
    fresh.init(play, json.dumps(root).encode())
    assert fresh.refresh(play) == 1
    assert play.asked == []


def test_a_client_that_was_never_given_a_root_asks_for_nothing(fresh: Client, play: Play) -> None:
    assert fresh.refresh(play) == 1
    assert play.asked == []


STOPS = {
    "root": {"root": 1},
    "timestamp": {"root": 2},
    "snapshot": {"root": 2, "timestamp": 2},
    "targets": {"root": 2, "snapshot": 2, "timestamp": 2},
}
"""What is trusted when the metadata of a role is not as it should be."""


@pytest.mark.parametrize(("role", "trusted"), STOPS.items())
def test_a_role_that_is_not_signed_is_refused_and_those_before_it_are_kept(
    client: Client, play: Play, role: str, trusted: dict[str, int]
) -> None:
    play.signers[role].clear()
    play.publish(*ALL)
    assert client.refresh(play) == 1
    assert client.trusted() == trusted


@pytest.mark.parametrize(("role", "trusted"), STOPS.items())
def test_a_role_that_a_stranger_signed_is_refused(
    client: Client, play: Play, role: str, trusted: dict[str, int]
) -> None:
    play.signers[role][:] = [CryptoSigner.generate_ed25519()]
    play.publish(*ALL)
    assert client.refresh(play) == 1
    assert client.trusted() == trusted


@pytest.mark.parametrize("role", ["root", "snapshot", "targets"])
def test_metadata_of_another_version_than_it_is_served_as_is_refused(client: Client, play: Play, role: str) -> None:
    play.signed[role].version += 2
    data = play.sign(role)
    play.signed[role].version -= 2
    for each in ALL:
        play.publish(each)
        if each == role:
            play.put(role, data, version=2)
    assert client.refresh(play) == 1
    assert client.trusted() == STOPS[role]


@pytest.mark.parametrize("role", TOP)
def test_metadata_of_another_type_is_refused_even_if_the_right_key_signed_it(
    client: Client, play: Play, role: str
) -> None:
    other = "snapshot" if role != "snapshot" else "timestamp"
    play.signers[other] += play.signers[role]
    play.signed["snapshot"].meta = {"snapshot.json": MetaFile(1), "targets.json": MetaFile(2)}
    play.publish(*ALL)
    signed = play.signed[other]
    version, signed.version = signed.version, 2
    data = play.sign(other)
    signed.version = version
    play.served[play.place(role, play.versions[role])] = data
    assert client.refresh(play) == 1
    assert role == "root" or role not in client.trusted()


def test_a_timestamp_that_changed_without_a_new_version_is_not_taken(client: Client, play: Play) -> None:
    assert client.refresh(play) == 0
    kept = client.holds("timestamp")
    play.signed["timestamp"].snapshot_meta = MetaFile(100)
    play.served["metadata/timestamp.json"] = play.sign("timestamp")
    assert client.refresh(play) == 0
    assert play.asked[-1] == "timestamp"
    assert client.holds("timestamp") == kept


@pytest.mark.parametrize("with_hashes", [False, True])
def test_new_versions_are_taken_with_and_without_hashes_in_snapshot_and_timestamp(
    client: Client, play: Play, with_hashes: bool
) -> None:
    play.with_hashes = with_hashes
    for expected in (2, 3):
        play.publish(*CONTENT)
        assert client.refresh(play) == 0
        assert client.trusted() == {**dict.fromkeys(CONTENT, expected), "root": 1}


@pytest.mark.parametrize("wrong", [{"hashes": {"sha256": "ab" * 32}}, {"length": 10}, {"hashes": {"sha256": "no"}}])
@pytest.mark.parametrize(("role", "lists"), [("targets", "snapshot"), ("snapshot", "timestamp")])
def test_metadata_that_is_not_as_long_or_does_not_hash_as_signed_is_refused(
    client: Client, play: Play, role: str, lists: str, wrong: dict[str, Any]
) -> None:
    assert client.refresh(play) == 0
    play.with_hashes = True
    play.publish("targets")
    if role == "snapshot":
        play.publish("snapshot")
    listing = play.signed[lists]
    meta = listing.meta["targets.json"] if role == "targets" else listing.snapshot_meta
    for name, value in wrong.items():
        setattr(meta, name, value)
    play.publish(*(ONLINE if role == "targets" else ("timestamp",)))
    assert client.refresh(play) == 1
    assert client.trusted()[role] == 1
    assert client.trusted()[lists] == 2


@pytest.mark.parametrize("status", [404, 403, 410, 500, 503])
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_that_the_server_does_not_give_ends_the_check(
    client: Client, play: Play, role: str, status: int
) -> None:
    assert client.refresh(play) == 0
    play.publish(*CONTENT)
    play.status[play.place(role, 2)] = status
    assert client.refresh(play) == 1
    stop = CONTENT[::-1].index(role)
    assert client.trusted() == {**{each: 2 if n < stop else 1 for n, each in enumerate(CONTENT[::-1])}, "root": 1}
    play.status.clear()
    assert client.refresh(play) == 0
    assert client.trusted() == {**dict.fromkeys(CONTENT, 2), "root": 1}


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_root_that_cannot_be_had_now_is_not_taken_for_the_last_one(client: Client, play: Play, status: int) -> None:
    play.publish("root")
    play.status["metadata/2.root.json"] = status
    assert client.refresh(play) == 1
    assert client.trusted() == {"root": 1}


def test_no_redirect_is_followed(client: Client, play: Play) -> None:
    play.publish("root")
    play.status["metadata/2.root.json"] = 302
    assert client.refresh(play) == 1
    assert play.asked == ["2.root"]


def test_fields_that_nobody_knows_are_signed_and_borne(client: Client, play: Play) -> None:
    signer = CryptoSigner.generate_ecdsa()
    signer.public_key.unrecognized_fields["maker"] = {"a": 1, "b": [True, None, "ü"]}
    play.root.unrecognized_fields["custom"] = "value"
    play.root.roles["root"].unrecognized_fields["custom"] = {"deep": ["er"]}
    play.new_key("root", signer)
    for role in CONTENT:
        play.signed[role].unrecognized_fields["x-custom"] = {"with": 'ünïcödé \U0001f511 and \\ " quotes'}
    play.signed["targets"].targets["f"] = play.add("targets", "f", b"f")
    play.signed["targets"].targets["f"].unrecognized_fields["custom"] = {"any": "thing"}
    play.publish(*ALL)
    assert client.refresh(play) == client.refresh(play) == 0
    assert client.trusted() == dict.fromkeys(TOP, 2)
    assert client.download(play, "f") == 0


def test_an_altered_field_that_nobody_knows_is_an_altered_document(client: Client, play: Play) -> None:
    play.root.unrecognized_fields["custom"] = "value"
    play.publish("root")
    play.served["metadata/2.root.json"] = play.current("root").replace(b'"value"', b'"other"')
    assert client.refresh(play) == 1
    assert client.trusted() == {"root": 1}


def test_what_a_key_says_about_hashing_its_id_is_not_listened_to(client: Client, play: Play) -> None:
    signer = CryptoSigner.generate_ecdsa()
    signer.public_key.unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    play.root.roles["snapshot"].keyids.clear()
    play.signers["snapshot"].clear()
    play.new_key("snapshot", signer)
    play.publish("root", *ONLINE)
    assert client.refresh(play) == 0
    assert client.trusted() == {"root": 2, "snapshot": 2, "targets": 1, "timestamp": 2}


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 12_000, b'{"signed": 1}'])
@pytest.mark.parametrize("role", TOP)
def test_garbage_is_refused_and_nothing_is_lost(client: Client, play: Play, role: str, garbage: bytes) -> None:
    assert client.refresh(play) == 0
    play.publish(*ALL)
    play.served[play.place(role, 2)] = garbage
    assert client.refresh(play) == 1
    assert client.trusted()[role] == 1


def test_a_repository_without_consistent_snapshots_serves_plain_names(fresh: Client, play: Play) -> None:
    play.root.consistent_snapshot = False
    play.add("targets", "folder/f", b"plain")
    play.publish(*ALL)
    assert fresh.init(play) == 0
    assert fresh.download(play, "folder/f") == 0
    assert play.requests == [
        "metadata/3.root.json", "metadata/timestamp.json", "metadata/snapshot.json", "metadata/targets.json",
        "targets/folder/f",
    ]  # fmt: skip
    play.publish(*CONTENT)
    assert fresh.refresh(play) == 0
    assert fresh.trusted() == {**dict.fromkeys(CONTENT, 3), "root": 2}


def test_a_repository_may_turn_to_consistent_snapshots_and_back(client: Client, play: Play) -> None:
    play.add("targets", "f", b"content")
    for consistent in (False, True, False):
        play.root.consistent_snapshot = consistent
        play.publish(*ALL)
        assert client.refresh(play) == 0
        assert client.trusted()["targets"] == play.versions["targets"]
    assert client.download(play, "f") == 0


def test_more_data_than_a_document_may_have_is_not_read(client: Client, play: Play) -> None:
    play.served["metadata/timestamp.json"] = play.current("timestamp") + b" " * 20_000
    assert client.refresh(play) == 1
    assert client.trusted() == {"root": 1}


def test_a_document_with_a_field_twice_does_not_count_as_signed_by_its_first(client: Client, play: Play) -> None:
    good = Metadata.from_bytes(play.current("timestamp"))
    twice = play.current("timestamp").replace(b'"version":1', b'"version":1,"version":99')
    assert twice != good.to_bytes()
    play.served["metadata/timestamp.json"] = twice
    assert client.refresh(play) == 1
