"""The program itself: one executable file, started by its path, that keeps everything in the directory it is given."""

import os
import subprocess
from pathlib import Path

from tests.conformance.stage import TUF_CLIENT, Client, Play


class Started(Client):
    """A client that is a process of its own for each command."""

    def run(self, *words: str, now: object = None) -> int:
        assert now is None
        here = self._directory / "elsewhere"
        here.mkdir(exist_ok=True)
        done = subprocess.run([TUF_CLIENT, *words], cwd=here, capture_output=True, text=True, timeout=60)
        assert list(here.iterdir()) == []
        self.said = done.stderr
        return done.returncode


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_device_is_made_looks_and_downloads(play: Play, tmp_path: Path, fresh: Client) -> None:
    play.add("targets", "a/file.txt", b"content")
    play.publish("targets", "snapshot", "timestamp")
    client = Started(tmp_path / "started", fresh._program)
    assert client.init(play) == 0
    assert play.asked == []
    assert client.refresh(play) == 0
    assert play.asked == ["2.root", "timestamp", "2.snapshot", "2.targets"]
    assert client.download(play, "a/file.txt") == 0
    assert client.downloaded() == [b"content"]
    for role in ("root", "timestamp", "snapshot", "targets"):
        assert client.holds(role) == play.current(role)
    assert contents(client.metadata) == [
        "high-water", "root.json", "root_history", "root_history/1.root.json",
        "snapshot.json", "targets.json", "timestamp.json",
    ]  # fmt: skip


def test_what_went_wrong_is_said_and_ends_with_1(play: Play, tmp_path: Path, fresh: Client) -> None:
    client = Started(tmp_path / "started", fresh._program)
    assert client.refresh(play) == 1  # nothing is trusted yet
    assert client.init(play) == 0
    play.status["metadata/timestamp.json"] = 500
    assert client.refresh(play) == 1
    assert client.said.startswith("error: ")
    assert client.said.count("\n") == 1


def test_it_is_one_executable_file() -> None:
    assert TUF_CLIENT.is_file()
    assert os.access(TUF_CLIENT, os.X_OK)
