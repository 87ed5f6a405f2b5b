"""Slots: written from the manifest and nothing else, whole when they have their name, told apart from damaged ones."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from beamfleet_agent.errors import AgentError
from beamfleet_agent.slots import MANIFEST, Slots, present
from beamfleet_bundles.manifest import FileEntry, Manifest

from tests.support.manifests import contents, manifest

MORE = {"lib/my_app-1.0.0/priv/data": b"x" * 100_000, "empty": b"", "bin/tool": b"#!/bin/sh\n"}
LINKS = {"bin/current": "../lib/my_app-1.0.0"}


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    (tmp_path / "slots").mkdir()
    return Slots(str(tmp_path / "slots"), str(tmp_path / "staging"))


def pieces(of: Manifest, content: dict[str, bytes], size: int = 40_000) -> Iterable[tuple[FileEntry, bytes]]:
    for entry in of.files:
        data = content[entry.path]
        for start in range(0, max(1, len(data)), size):
            yield entry, data[start : start + size]


def install(slots: Slots, of: Manifest, content: dict[str, bytes]) -> None:
    with slots.lock():
        slots.make_room(of, ())
        slots.write(of, pieces(of, content), lambda _done: None)
        slots.publish(of.id)


def test_a_slot_is_what_its_manifest_says_and_cannot_be_written(slots: Slots) -> None:
    release = manifest(MORE, LINKS)
    install(slots, release, contents(MORE))
    path = slots.path(release.id)
    assert slots.verify(release.id) == release
    assert (path / "lib/my_app-1.0.0/priv/data").read_bytes() == MORE["lib/my_app-1.0.0/priv/data"]
    assert str((path / "bin/current").readlink()) == "../lib/my_app-1.0.0"
    found = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir() or file.is_symlink()}
    assert found == {entry.path for entry in release.entries} | {MANIFEST}
    assert stat.S_IMODE((path / "bin/tool").stat().st_mode) == 0o555
    assert stat.S_IMODE((path / "empty").stat().st_mode) == 0o444
    modes = {stat.S_IMODE(folder.stat().st_mode) for folder in (path, *(d for d in path.rglob("*") if d.is_dir()))}
    assert modes == {0o555}
    assert present(str(path.parent)) == {release.id}


def test_staging_is_empty_before_and_after_whatever_happens(slots: Slots, tmp_path: Path) -> None:
    release = manifest(MORE)
    left = tmp_path / "staging" / "left" / "behind"
    left.mkdir(parents=True)
    left.chmod(0o555)
    left.parent.chmod(0o555)
    with slots.lock():
        assert list((tmp_path / "staging").iterdir()) == []
    with pytest.raises(AgentError), slots.lock():
        slots.write(release, pieces(release, {**contents(MORE), "empty": b"not empty"}), lambda _done: None)
    assert list((tmp_path / "staging").iterdir()) == []
    assert list((tmp_path / "slots").iterdir()) == []


@pytest.mark.parametrize("wrong", [b"altered", b"", b"an executable and more"])
def test_a_file_that_is_not_the_signed_one_is_refused_by_name(slots: Slots, wrong: bytes) -> None:
    release = manifest()
    altered = {**contents(), "erts-13.1.5/bin/erlexec": wrong}
    with pytest.raises(AgentError, match=r"erts-13.1.5/bin/erlexec is not the file.*slot\.altered"), slots.lock():
        slots.write(release, pieces(release, altered), lambda _done: None)


def test_a_release_with_a_file_in_the_place_of_the_manifest_is_refused(slots: Slots) -> None:
    release = manifest({MANIFEST: b"{}"})
    with pytest.raises(AgentError, match=r"slot\.reserved"), slots.lock():
        slots.write(release, pieces(release, contents({MANIFEST: b"{}"})), lambda _done: None)


def test_two_workers_never_write_at_once(slots: Slots) -> None:
    with slots.lock(), pytest.raises(AgentError, match=r"slot\.busy"), slots.lock():
        pass
    with slots.lock():
        pass


def test_slots_that_nobody_needs_make_room_and_the_others_stay(slots: Slots, tmp_path: Path) -> None:
    releases = [manifest(version=f"1.0.{number}") for number in range(4)]
    for release in releases[:3]:
        with slots.lock():
            slots.write(release, pieces(release, contents()), lambda _done: None)
            slots.publish(release.id)
    kept = {releases[1].id, releases[2].id}
    slots.make_room(releases[3], kept)
    assert present(str(tmp_path / "slots")) == kept


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"f_bavail": 1000}, r"needs \d+ MiB, the disk has 4 MiB"),
        ({"f_favail": 20}, r"needs \d+ inodes, the disk has 20"),
    ],
)
def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(
    slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, int], named: str
) -> None:
    roomy = {"f_frsize": 4096, "f_bavail": 1 << 30, "f_favail": 1 << 30, "f_files": 1 << 31}
    monkeypatch.setattr(os, "statvfs", lambda _path: type("Disk", (), {**roomy, **fields}))
    with pytest.raises(AgentError, match=named), slots.lock():
        slots.make_room(manifest(MORE), ())
    assert list((tmp_path / "slots").iterdir()) == list((tmp_path / "staging").iterdir()) == []


def test_a_filesystem_without_a_count_of_inodes_has_enough(
    slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = type("Disk", (), {"f_frsize": 4096, "f_bavail": 1 << 30, "f_favail": 0, "f_files": 0})
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)
    slots.make_room(manifest(MORE), ())


def damage_content(slot: Path) -> None:
    file = slot / "erts-13.1.5/bin/erlexec"
    file.chmod(0o755)
    file.write_bytes(b"An executable")


def damage_mode(slot: Path) -> None:
    (slot / "erts-13.1.5/bin/erlexec").chmod(0o444)


def lose_file(slot: Path) -> None:
    folder = slot / "releases/1.0.0"
    folder.chmod(0o755)
    (folder / "start.boot").unlink()


def add_file(slot: Path) -> None:
    (slot / "lib").chmod(0o755)
    (slot / "lib/stranger").write_bytes(b"")


def add_folder(slot: Path) -> None:
    slot.chmod(0o755)
    (slot / "stranger").mkdir()


def turn_link(slot: Path) -> None:
    (slot / "bin").chmod(0o755)
    (slot / "bin/current").unlink()
    (slot / "bin/current").symlink_to("../erts-13.1.5")


def replace_file_by_link(slot: Path) -> None:
    lose_file(slot)
    (slot / "releases/1.0.0/start.boot").symlink_to("../../bin/tool")


def lose_manifest(slot: Path) -> None:
    (slot / ".beamfleet").chmod(0o755)
    (slot / MANIFEST).unlink()


def zero_manifest(slot: Path) -> None:
    (slot / MANIFEST).chmod(0o644)
    (slot / MANIFEST).write_bytes(b"")


def take_the_manifest_of_another(slot: Path) -> None:
    (slot / MANIFEST).chmod(0o644)
    (slot / MANIFEST).write_bytes(manifest(version="6.6.6").encode())


@pytest.mark.parametrize(
    "damage",
    [
        damage_content, damage_mode, lose_file, add_file, add_folder, turn_link, replace_file_by_link, lose_manifest,
        zero_manifest, take_the_manifest_of_another,
    ],
)  # fmt: skip
def test_any_damage_to_a_slot_is_found(slots: Slots, damage: object) -> None:
    release = manifest(MORE, LINKS)
    install(slots, release, contents(MORE))
    assert callable(damage)
    damage(slots.path(release.id))
    with pytest.raises(AgentError, match=r"slot\.damaged"):
        slots.verify(release.id)


def test_a_damaged_slot_of_the_same_name_is_replaced(slots: Slots) -> None:
    release = manifest(MORE, LINKS)
    install(slots, release, contents(MORE))
    lose_file(slots.path(release.id))
    with slots.lock():
        slots.write(release, pieces(release, contents(MORE)), lambda _done: None)
        slots.publish(release.id)
    assert slots.verify(release.id) == release


def test_a_slot_that_is_not_there_is_missing(slots: Slots) -> None:
    with pytest.raises(AgentError, match=r"slot\.missing"):
        slots.verify("a" * 32)
