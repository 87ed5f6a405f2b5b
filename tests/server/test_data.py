"""The data directory: one server at a time, and nothing of a broken upload left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from beamfleet_server.data import DataDirectory
from beamfleet_server.errors import ServerError

from tests.support.refusal import refusal


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "deep" / "data")
    data.open()
    assert data.root.stat().st_mode & 0o777 == 0o700
    assert data.keys.is_dir()
    data.close()


def test_the_second_one_is_told_who_holds_it_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    holder = "import sys; from pathlib import Path; from beamfleet_server.data import DataDirectory\n"
    holder += "DataDirectory(Path(sys.argv[1])).open(); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ServerError, match=f"pid {other.pid}"):
            DataDirectory(tmp_path).open()
        other.kill()
        other.wait()
    data = DataDirectory(tmp_path)
    data.open()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    data.close()


def test_the_quarantine_is_emptied_at_each_start(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "x.bundle").write_bytes(b"half")
    data = DataDirectory(tmp_path)
    data.open()
    assert list(data.quarantine.iterdir()) == []
    data.close()


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(DataDirectory(tmp_path / "file" / "data").open) == "server.data_unusable"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ports": {"mqtt": "x", "other": 1}}'])
def test_ports_that_cannot_be_read_are_not_remembered(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    assert DataDirectory(tmp_path).remembered_ports() == {}


def test_ports_are_remembered(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.remember({"pid": 1, "ports": {"mqtt": 5}})
    assert data.remembered_ports() == {"mqtt": 5}
    assert json.loads(data.facts.read_text())["pid"] == 1
