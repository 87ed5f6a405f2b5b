"""Targets: the signed bytes or none, whatever they are called and whoever serves them."""

from urllib.parse import quote

import pytest
from tuf.api.metadata import TargetFile

from tests.conformance.stage import CONTENT, Client, Play


def offer(play: Play, path: str, data: bytes, hashes: tuple[str, ...] = ("sha256",)) -> TargetFile:
    """The top role signs this target; published."""
    target = play.add("targets", path, data, hashes)
    play.publish(*CONTENT)
    return target


def targets_asked(play: Play) -> list[str]:
    return [path for path in play.requests if path.startswith("targets/")]


@pytest.mark.parametrize("path", ["file.txt", "path/to/a/file.txt"])
def test_a_target_is_downloaded_when_it_is_asked_for(client: Client, play: Play, path: str) -> None:
    offer(play, path, b"content")
    assert client.refresh(play) == 0
    assert client.downloaded() == []
    assert client.download(play, path) == 0
    assert client.downloaded() == [b"content"]


def test_an_empty_target_is_a_target(client: Client, play: Play) -> None:
    offer(play, "empty", b"")
    assert client.download(play, "empty") == 0
    assert client.downloaded() == [b""]


@pytest.mark.parametrize("lie", [b"other content", b"content!", b"conten", b"", b"CONTENT"])
def test_other_bytes_than_the_signed_ones_are_refused(client: Client, play: Play, lie: bytes) -> None:
    target = offer(play, "file", b"content")
    play.served[f"targets/{target.hashes['sha256']}.file"] = lie
    assert client.download(play, "file") == 1
    assert client.downloaded() == []


def test_a_length_that_is_not_that_of_the_signed_bytes_is_refused(client: Client, play: Play) -> None:
    target = play.add("targets", "file", b"content")
    target.length = 6
    play.publish(*CONTENT)
    assert client.download(play, "file") == 1
    target.length = 8
    play.publish(*CONTENT)
    assert client.download(play, "file") == 1
    assert client.downloaded() == []


def test_a_target_is_not_read_beyond_its_signed_length(client: Client, play: Play) -> None:
    target = offer(play, "file", b"content")
    play.served[f"targets/{target.hashes['sha256']}.file"] = b"content" + bytes(8 << 20)
    assert client.download(play, "file") == 1
    assert client.downloaded() == []


def test_what_was_downloaded_is_not_replaced_by_something_else(client: Client, play: Play) -> None:
    first = offer(play, "first", b"one")
    second = offer(play, "second", b"two")
    assert client.download(play, "first") == 0
    for target in (first, second):
        play.served[f"targets/{target.hashes['sha256']}.{target.path}"] = b"bad"
    client.download(play, "first")
    assert client.download(play, "second") == 1
    assert client.downloaded() == [b"one"]


def test_a_target_that_changes_replaces_its_older_self(client: Client, play: Play) -> None:
    for number in range(4):
        offer(play, "file", f"content {number}".encode())
        assert client.download(play, "file") == 0
        assert client.downloaded() == [f"content {number}".encode()]


def test_a_target_that_is_there_is_not_downloaded_again(client: Client, play: Play) -> None:
    offer(play, "folder/file", b"content")
    assert client.download(play, "folder/file") == client.download(play, "folder/file") == 0
    assert len(targets_asked(play)) == 1


def test_a_downloaded_target_that_was_altered_is_downloaded_again(client: Client, play: Play) -> None:
    offer(play, "file", b"content")
    assert client.download(play, "file") == 0
    (kept,) = client.targets.iterdir()
    kept.write_bytes(b"CONTENT")
    assert client.download(play, "file") == 0
    assert client.downloaded() == [b"content"]


def test_a_target_that_is_there_is_not_given_while_the_metadata_cannot_be_refreshed(client: Client, play: Play) -> None:
    offer(play, "file", b"content")
    assert client.download(play, "file") == 0
    play.status["metadata/timestamp.json"] = 500
    assert client.download(play, "file") == 1


@pytest.mark.parametrize("hashes", [("sha256",), ("sha512",), ("sha256", "sha512"), ("sha512", "sha256"), ("sha384",)])
def test_a_target_may_be_signed_by_any_strong_hash(client: Client, play: Play, hashes: tuple[str, ...]) -> None:
    target = offer(play, "file", b"content", hashes)
    assert client.download(play, "file") == 0
    assert targets_asked(play)[0] in {f"targets/{digest}.file" for digest in target.hashes.values()}
    assert len(targets_asked(play)) == 1


def test_all_hashes_of_a_target_must_be_right(client: Client, play: Play) -> None:
    target = play.add("targets", "file", b"content", ("sha256", "sha512"))
    target.hashes["sha512"] = "ab" * 64
    play.publish(*CONTENT)
    assert client.download(play, "file") == 1
    assert client.downloaded() == []


def test_a_hash_that_nobody_knows_proves_nothing(client: Client, play: Play) -> None:
    target = play.add("targets", "file", b"content", ("sha512",))
    target.hashes["unknown-hash"] = target.hashes.pop("sha512")
    play.publish(*CONTENT)
    assert client.download(play, "file") == 1
    assert client.downloaded() == []


@pytest.mark.parametrize(
    "path",
    [
        "with space.txt",
        "ünïcode/dätei",
        "a&b=c+d",
        "semi;colon,comma",
        "hash#mark",
        "~tilde/$dollar",
        "quo'te\"s",
        "a:b@c",
    ],
)
def test_a_path_may_have_characters_that_mean_something_elsewhere(client: Client, play: Play, path: str) -> None:
    target = offer(play, path, b"content")
    assert client.download(play, path) == 0
    assert client.downloaded() == [b"content"]
    folder, slash, name = path.rpartition("/")
    assert target.path == path
    assert quote(f"{folder}{slash}{target.hashes['sha256']}.{name}", safe="/%?&=+,;:@!$'()*~") in targets_asked(play)[0]


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/absolute", "..", "a//b"])
def test_a_path_cannot_leave_the_folder_of_downloads(client: Client, play: Play, path: str) -> None:
    offer(play, path, b"content")
    client.download(play, path)
    outside = [each for each in client.targets.parent.rglob("*outside*") if each.parent != client.targets]
    assert outside == []
    assert not list(client.targets.parent.parent.glob("outside*"))


def test_a_target_that_the_server_has_lost_is_an_error(client: Client, play: Play) -> None:
    target = offer(play, "file", b"content")
    del play.served[f"targets/{target.hashes['sha256']}.file"]
    assert client.download(play, "file") == 1
