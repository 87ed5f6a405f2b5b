"""An archive is taken apart into one new directory, whatever whoever made it had in mind."""

import io
import stat
import sys
import tarfile
from pathlib import Path

import pytest
from beamfleet_server.cli import unpacking
from beamfleet_server.cli.errors import CommandError
from hypothesis import given
from hypothesis import strategies as st

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return zstd.compress(out.getvalue())


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode, made.uid = kind, link, 0o4777, 12345
    return made


def refusal(archive: bytes, folder: Path) -> str:
    with pytest.raises(CommandError) as refused:
        unpacking.unpack(archive, folder)
    assert refused.value.code == "evidence.archive"
    return refused.value.message


def test_its_files_are_there_for_their_owner_alone(tmp_path: Path) -> None:
    archive = packed((entry("facts.json"), b"{}"), (entry("boot/state"), b"x"), (entry("vm.log.1"), b""))
    folder = tmp_path / "gw-1"
    assert unpacking.unpack(archive, folder) == ["facts.json", "boot/state", "vm.log.1"]
    assert (folder / "boot/state").read_bytes() == b"x"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes == {"gw-1": 0o700, "boot": 0o700, "facts.json": 0o600, "state": 0o600, "vm.log.1": 0o600}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "boot/../../x",
        "a/b",
        "boot/",
        ".bashrc",
        "",
        "-rf",
        "boot",
        "a\nb",
        "x" * 200,
        "boot/boot/x",
    ],
)
def test_no_other_name_is_written(tmp_path: Path, name: str) -> None:
    refusal(packed((entry("facts.json"), b"{}"), (entry(name), b"x")), tmp_path / "gw-1")
    assert list(tmp_path.iterdir()) == [], "refused as a whole"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_nothing_but_plain_files_is_made(tmp_path: Path, kind: bytes) -> None:
    refusal(packed((entry("vm.log", kind, "facts.json"), b"")), tmp_path / "gw-1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_twice_too_many_and_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gw-1"
    assert "no plain file of its own" in refusal(packed((entry("a"), b"1"), (entry("a"), b"2")), folder)
    many = [(entry(f"f{number}"), b"") for number in range(unpacking.MAX_FILES + 1)]
    assert "too much" in refusal(packed(*many), folder)
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1 << 20)
    bomb = packed((entry("erl_crash.dump"), bytes(8 << 20)))
    assert len(bomb) < 10_000
    assert "too much" in refusal(bomb, folder)
    assert not folder.exists()


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text("mine")
    assert "exists" in refusal(packed((entry("facts.json"), b"{}")), tmp_path)
    assert (tmp_path / "facts.json").read_text() == "mine"


@given(st.binary(max_size=200))
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    for archive in (data, zstd.compress(data)):
        with pytest.raises(CommandError):
            unpacking.read(archive)


def test_a_half_archive_is_refused(tmp_path: Path) -> None:
    whole = packed((entry("facts.json"), bytes(range(256)) * 100))
    refusal(whole[: len(whole) // 2], tmp_path / "gw-1")
    torn = zstd.compress(zstd.decompress(whole)[:1000])
    refusal(torn, tmp_path / "gw-1")
