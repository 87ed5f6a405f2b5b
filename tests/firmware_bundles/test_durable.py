"""Small files that a power cut cannot halve."""

import os
import threading
from pathlib import Path

import pytest
from beamfleet_bundles import durable


def test_a_replaced_file_has_the_new_bytes_and_the_asked_mode(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert durable.replace(path, b"old")
    assert durable.replace(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_bytes_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "state"
    durable.replace(path, b"same")
    before = path.stat()
    assert not durable.replace(path, b"same")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_a_power_cut_left_beside_a_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".state.new").write_bytes(b"half a fi")
    durable.replace(tmp_path / "state", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_replacing_a_link_replaces_the_link_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "state").symlink_to("elsewhere")
    durable.replace(tmp_path / "state", b"mine")
    durable.replace(tmp_path / "state", b"yours")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not (tmp_path / "state").is_symlink()


def test_a_created_file_is_never_an_overwritten_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    durable.create(path, b"first")
    with pytest.raises(FileExistsError):
        durable.create(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_that_create_one_file_exactly_one_wins_and_it_is_whole(tmp_path: Path) -> None:
    path, outcomes, start = tmp_path / "key", list[bytes](), threading.Barrier(8)

    def rival(content: bytes) -> None:
        start.wait()
        try:
            durable.create(path, content)
            outcomes.append(content)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=rival, args=(bytes([number]) * 5000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [path.read_bytes()]
    assert len(path.read_bytes()) == 5000
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_directory_are_synced_before_the_call_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = list[int](), os.fsync

    def recording(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    durable.replace(tmp_path / "state", b"1")
    durable.create(tmp_path / "key", b"2")
    expected = [tmp_path / "state", tmp_path, tmp_path / "key", tmp_path]
    assert synced == [path.stat().st_ino for path in expected]
