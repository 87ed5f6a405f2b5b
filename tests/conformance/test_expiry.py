"""Time: what is past its own is not used, and being late is no obstacle to catching up."""

import pytest

from tests.conformance.stage import ALL, CONTENT, ONLINE, TOP, Client, Play, in_days

LATE = -5


@pytest.mark.parametrize(
    ("role", "trusted"),
    [
        ("root", {"root": 2, "snapshot": 1, "targets": 1, "timestamp": 1}),
        ("timestamp", {"root": 2, "snapshot": 1, "targets": 1, "timestamp": 1}),
        ("snapshot", {"root": 2, "snapshot": 1, "targets": 1, "timestamp": 2}),
        ("targets", {"root": 2, "snapshot": 2, "targets": 1, "timestamp": 2}),
    ],
)
def test_expired_metadata_is_refused_but_an_expired_root_may_lead_to_the_next(
    client: Client, play: Play, role: str, trusted: dict[str, int]
) -> None:
    assert client.refresh(play) == 0
    play.signed[role].expires = in_days(LATE)
    play.publish(*ALL)
    assert client.refresh(play) == 1
    assert client.trusted() == trusted


def test_an_expired_root_in_between_does_not_matter(client: Client, play: Play) -> None:
    good = play.root.expires
    play.root.expires = in_days(LATE)
    play.publish("root")
    play.root.expires = good
    play.publish("root")
    assert client.refresh(play) == 0
    assert client.trusted()["root"] == 3


@pytest.mark.parametrize("role", TOP)
def test_what_is_trusted_is_not_trusted_for_ever(client: Client, play: Play, role: str) -> None:
    play.signed[role].expires = in_days(7)
    play.publish(*ALL)
    assert client.refresh(play, in_days(6)) == 0
    assert client.refresh(play, in_days(8)) == 1
    assert client.refresh(play, in_days(6)) == 0


@pytest.mark.parametrize("role", TOP)
def test_a_client_whose_own_metadata_has_expired_catches_up(client: Client, play: Play, role: str) -> None:
    play.signed[role].expires = in_days(7)
    play.publish(*ALL)
    assert client.refresh(play) == 0
    play.signed[role].expires = in_days(21)
    play.publish(*ALL)
    assert client.refresh(play, in_days(18)) == 0
    assert client.trusted() == dict.fromkeys(TOP, 3)


def test_a_root_that_had_expired_when_it_was_given_catches_up(fresh: Client, play: Play) -> None:
    good = play.root.expires
    play.root.expires = in_days(LATE)
    play.publish("root")
    play.root.expires = good
    assert fresh.init(play) == 0
    assert fresh.refresh(play) == 1
    play.publish("root")
    assert fresh.refresh(play) == 0


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_an_expired_cache_still_guards_against_rollback(client: Client, play: Play, role: str) -> None:
    older = dict(play.served)
    play.signed[role].expires = in_days(7)
    play.publish(*CONTENT)
    assert client.refresh(play) == 0
    play.served = older
    assert client.refresh(play, in_days(8)) == 1
    assert client.trusted()[role] == 2


def test_a_delegated_role_that_has_expired_is_neither_used_nor_kept(client: Client, play: Play) -> None:
    play.delegate("targets", "team").expires = in_days(LATE)
    play.add("team", "file", b"content")
    play.publish("team", *CONTENT)
    assert client.refresh(play) == 0
    assert client.download(play, "file") == 1
    assert client.downloaded() == []
    assert client.trusted() == {"root": 1, "snapshot": 2, "targets": 2, "timestamp": 2}


def test_a_cached_delegated_role_expires_too(client: Client, play: Play) -> None:
    play.delegate("targets", "team").expires = in_days(7)
    play.add("team", "first", b"1")
    play.add("team", "second", b"2")
    play.publish("team", *CONTENT)
    assert client.download(play, "first") == 0
    assert client.download(play, "second", in_days(18)) == 1
    assert client.downloaded() == [b"1"]
    play.signed["team"].expires = in_days(21)
    play.publish("team", *ONLINE)
    assert client.download(play, "second", in_days(18)) == 0
    assert client.downloaded() == [b"1", b"2"]
