"""Older metadata, forked metadata, and the way back from versions that ran away."""

import shutil

import pytest

from tests.conformance.stage import ALL, CONTENT, ONLINE, Client, Play


@pytest.fixture(params=[False, True], ids=["plain", "hashes"])
def hashed(play: Play, request: pytest.FixtureRequest) -> Play:
    """The repository, with and without hashes in snapshot and timestamp."""
    play.with_hashes = bool(request.param)
    return play


def test_an_older_timestamp_is_refused(client: Client, play: Play) -> None:
    older = play.current("timestamp")
    play.publish("timestamp")
    assert client.refresh(play) == 0
    play.served["metadata/timestamp.json"] = older
    assert client.refresh(play) == 1
    assert client.trusted()["timestamp"] == 2
    assert play.asked[-1] == "timestamp"


def test_a_newer_timestamp_of_an_older_snapshot_is_refused(client: Client, hashed: Play) -> None:
    hashed.publish(*ONLINE)
    assert client.refresh(hashed) == 0
    hashed.restart("snapshot")
    hashed.publish("snapshot", "timestamp")
    assert client.refresh(hashed) == 1
    assert (client.trusted()["snapshot"], client.trusted()["timestamp"]) == (2, 2)
    assert hashed.asked[-1] == "timestamp"


def test_a_newer_snapshot_of_older_targets_is_refused(client: Client, hashed: Play) -> None:
    hashed.publish(*CONTENT)
    assert client.refresh(hashed) == 0
    hashed.restart("targets")
    hashed.publish(*CONTENT)
    assert client.refresh(hashed) == 1
    assert (client.trusted()["snapshot"], client.trusted()["targets"]) == (2, 2)


def test_a_newer_snapshot_of_an_older_delegated_role_is_refused(client: Client, hashed: Play) -> None:
    hashed.delegate("targets", "team")
    hashed.publish("team", *CONTENT)
    hashed.publish("team", *ONLINE)
    assert client.refresh(hashed) == 0
    hashed.restart("team")
    hashed.publish("team", *ONLINE)
    assert client.refresh(hashed) == 1
    assert client.trusted()["snapshot"] == 3


def test_a_role_cannot_be_taken_out_of_the_snapshot(client: Client, play: Play) -> None:
    play.delegate("targets", "team")
    play.publish("team", *CONTENT)
    assert client.refresh(play) == 0
    del play.signed["snapshot"].meta["team.json"]
    play.publish(*ONLINE)
    assert client.refresh(play) == 1
    assert client.trusted()["snapshot"] == 2


def test_a_version_that_the_timestamp_does_not_name_is_not_looked_for(client: Client, play: Play) -> None:
    assert client.refresh(play) == 0
    play.publish("snapshot", "targets")
    assert client.refresh(play) == 0
    assert client.trusted() == {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}


def test_an_older_root_is_never_trusted_again(client: Client, play: Play) -> None:
    play.publish("root")
    assert client.refresh(play) == 0
    play.served["metadata/3.root.json"] = play.served["metadata/1.root.json"]
    assert client.refresh(play) == 1
    assert client.trusted()["root"] == 2


def test_a_gap_in_the_roots_ends_the_chain_before_it(client: Client, play: Play) -> None:
    play.publish("root", "root")
    del play.served["metadata/2.root.json"]
    assert client.refresh(play) == 0
    assert client.trusted()["root"] == 1
    assert play.asked[0] == "2.root"


def test_roots_are_followed_one_by_one_to_the_newest(client: Client, play: Play) -> None:
    for _ in range(12):
        play.root.roles["root"].keyids.clear()
        before = list(play.signers["root"])
        play.signers["root"].clear()
        play.new_key("root")
        play.signers["root"] += before[-1:]
        play.publish("root")
        del play.signers["root"][1:]
    assert client.refresh(play) == 0
    assert client.trusted()["root"] == 13
    assert play.asked[:13] == [f"{version}.root" for version in range(2, 15)]


# -- fast-forward recovery (5.3.11): new keys call back what a thief has run away with


def test_new_timestamp_keys_call_a_timestamp_back(client: Client, play: Play) -> None:
    play.signed["timestamp"].version = 99
    play.publish("timestamp")
    assert client.refresh(play) == 0
    assert client.trusted()["timestamp"] == 100
    play.new_keys_only("timestamp")
    play.restart("timestamp")
    play.publish("root", "timestamp")
    assert client.refresh(play) == client.refresh(play) == 0
    assert client.trusted()["timestamp"] == 1


def test_new_snapshot_and_timestamp_keys_call_a_snapshot_back(client: Client, hashed: Play) -> None:
    hashed.signed["snapshot"].version = 99
    hashed.publish(*ONLINE)
    assert client.refresh(hashed) == 0
    assert client.trusted()["snapshot"] == 100
    hashed.new_keys_only("snapshot")
    hashed.new_keys_only("timestamp")
    hashed.restart("snapshot")
    hashed.publish(*ALL)
    assert client.refresh(hashed) == client.refresh(hashed) == 0
    assert client.trusted()["snapshot"] == 1


def test_new_snapshot_keys_call_targets_back_and_may_drop_a_role(client: Client, hashed: Play) -> None:
    hashed.delegate("targets", "team")
    hashed.signed["targets"].version = 99
    hashed.publish("team", *CONTENT)
    assert client.refresh(hashed) == 0
    assert client.trusted()["targets"] == 100
    hashed.new_keys_only("snapshot")
    hashed.restart("targets")
    del hashed.signed["snapshot"].meta["team.json"]
    hashed.publish(*ALL)
    assert client.refresh(hashed) == client.refresh(hashed) == 0
    assert client.trusted()["targets"] == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_runaway_version_is_not_called_back_by_the_same_keys(client: Client, play: Play, role: str) -> None:
    play.signed[role].version = 99
    play.publish(*ONLINE) if role == "snapshot" else play.publish(role)
    assert client.refresh(play) == 0
    play.restart(role)
    play.publish("root", *ONLINE)
    assert client.refresh(play) == 1
    assert client.trusted()[role] == 100


# -- what lies in the directory is not believed because it lies there


def test_a_cached_role_that_its_delegator_no_longer_vouches_for_is_not_used(client: Client, play: Play) -> None:
    play.delegate("targets", "team")
    play.add("team", "file", b"by the old key")
    play.publish("team", *CONTENT)
    assert client.download(play, "file") == 0
    play.signed["targets"].delegations.roles["team"].keyids.clear()
    play.signers["team"].clear()
    play.new_key("team", delegator="targets")
    play.publish(*CONTENT)  # not the role itself: its version and its bytes are those in the cache
    shutil.rmtree(client.targets)
    assert client.download(play, "file") == 1
    assert play.asked[-1] == "1.team"


@pytest.mark.parametrize("role", CONTENT)
def test_cached_metadata_that_was_altered_is_fetched_again(client: Client, play: Play, role: str) -> None:
    assert client.refresh(play) == 0
    kept = client.holds(role)
    (client.metadata / f"{role}.json").write_bytes(kept.replace(b'"version":1', b'"version":7'))
    assert client.refresh(play) == 0
    assert client.holds(role) == kept


def test_a_timestamp_that_a_power_cut_zeroed_does_not_let_an_older_one_in(client: Client, play: Play) -> None:
    yesterday = dict(play.served)
    play.publish(*CONTENT)
    assert client.refresh(play) == 0
    for role in CONTENT:
        (client.metadata / f"{role}.json").write_bytes(b"")
    play.served = yesterday
    assert client.refresh(play) == 1
    assert client.holds("timestamp") != yesterday["metadata/timestamp.json"]


def test_a_timestamp_that_was_seen_while_its_snapshot_was_withheld_counts_after_a_power_cut(
    client: Client, play: Play
) -> None:
    assert client.refresh(play) == 0
    yesterday = dict(play.served)
    play.publish(*CONTENT)
    play.status[play.place("snapshot", 2)] = 404
    assert client.refresh(play) == 1
    (client.metadata / "timestamp.json").write_bytes(b"")
    play.served, play.status = yesterday, {}
    assert client.refresh(play) == 1
