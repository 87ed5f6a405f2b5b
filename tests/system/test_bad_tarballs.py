"""What `beamfleet bundle build` is given instead of a release: each is refused by code, nothing of it stays anywhere.

No server is needed. The release around each bad member is a good one, so that the member alone decides.
"""

import os
import re
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import skeleton
from tests.support.examples import tarball
from tests.support.fleet import Fleet
from tests.support.refused import Refused, to_people, to_scripts
from tests.support.skeleton import header
from tests.system.conftest import SmallDisk

MEMBERS = {
    "archive.absolute": header("/etc/cron.d/owned", 1),
    "archive.parent": header("lib/../../../owned", 1),
    "archive.link": header("lib/out", kind=tarfile.SYMTYPE, target="../../outside"),
    "archive.special": header("lib/disk", kind=tarfile.BLKTYPE),
    "archive.setuid": header("bin/su", 1, 0o4755),
    "archive.duplicate": header("bin/my_app", 1, 0o755),
    "archive.hard_link": header("lib/passwd", kind=tarfile.LNKTYPE, target="/etc/passwd"),
    "archive.reserved": header(".beamfleet/launch", 1),
}
PEAK_KIB = 120 << 10
"""Most memory that a refused build may take: about three times what it does take."""
ZEROS = 300 << 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """An operator without a server, whose temporary files must all be gone at the end."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield Fleet(tmp_path)
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "operator").exists()


def build(place: Fleet, source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return place.cli("bundle", "build", str(source), "--out", str(place.work / "out"), *words, ok=(1,))


def heard_by_both(place: Fleet, source: Path) -> Refused:
    heard = to_people(build(place, source))
    assert heard == to_scripts(build(place, source, "-o", "json"))
    return heard


@pytest.mark.parametrize("code", MEMBERS)
def test_a_hostile_member_is_refused_by_name(place: Fleet, tmp_path: Path, code: str) -> None:
    member = MEMBERS[code]
    source = skeleton.write(tmp_path, skeleton.release(), [(member, b"x" * member.size)])
    refused = to_scripts(build(place, source, "-o", "json"))
    assert refused.code == code
    assert member.name.split("/")[-1] in refused.message
    assert not (tmp_path.parent / "owned").exists()


def peak_of(child: "subprocess.Popen[str]") -> int:
    """VmHWM in KiB, sampled to the end; ru_maxrss would count what the test process had when it forked."""
    peak_kib = 0
    while child.poll() is None:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{child.pid}/status").read_text())
        peak_kib = max(peak_kib, int(found[1]) if found else 0)
        time.sleep(0.005)
    return peak_kib


@pytest.mark.parametrize(
    ("files", "compressed", "code"),
    [(1, True, "archive.member_too_large"), (1, False, "archive.member_too_large"), (2, True, "archive.bomb")],
)
def test_300_mb_of_zeros_are_refused_in_bounded_memory_and_disk(
    place: Fleet, tmp_path: Path, files: int, compressed: bool, code: str
) -> None:
    source = zeros(tmp_path / "zeros.tar", files, compressed)
    words = [str(place.programs / "beamfleet"), "bundle", "build", str(source), "--out", str(tmp_path / "out")]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak_kib = peak_of(child)
    refused = to_people(subprocess.CompletedProcess(words, child.returncode, *child.communicate()))
    assert refused.code == code
    print("peak of the build:", peak_kib, "KiB")
    assert 0 < peak_kib < PEAK_KIB


def zeros(path: Path, files: int, compressed: bool) -> Path:
    """A tarball of 300 MB of zeros in so many files; compressed it is 1.3 MB, else it is a file with holes."""
    size, packer = ZEROS // files, zlib.compressobj(1, wbits=31)
    with path.open("wb") as out:
        for number in range(files):
            start = header(f"lib/zeros-{number}", size).tobuf(tarfile.GNU_FORMAT)
            if not compressed:
                out.write(start)
                out.truncate(out.seek(size, os.SEEK_CUR))
                continue
            out.write(packer.compress(start))
            for _ in range(size >> 20):
                out.write(packer.compress(bytes(1 << 20)))
        end = bytes(2 * tarfile.BLOCKSIZE)
        out.write(packer.compress(end) + packer.flush() if compressed else end)
    return path


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a user may give by mistake, by the code of its refusal."""
    folder, good = tmp_path_factory.mktemp("bad"), tarball("sensor_gateway", "1.0.0")
    content = good.read_bytes()
    files = {
        "archive.truncated": content[: len(content) // 2],
        "archive.trailing_data": content + b"and more",
        "archive.corrupt": content[:200_000] + bytes(1000) + content[201_000:],
        "archive.not_an_archive": b"PK\3\4 this is a zip",
        "release.not_a_release": skeleton.gzip(skeleton.tar(skeleton.members({"src/main.c": b"int main;"}))),
    }
    paths = {code: folder / f"{code}.tar.gz" for code in files}
    for code, path in paths.items():
        path.write_bytes(files[code])
    empty = folder / "empty"
    empty.mkdir()
    return paths | {"archive.empty": empty, "archive.unreadable": folder / "missing.tar.gz"}


@pytest.mark.parametrize(
    "code",
    ["archive.truncated", "archive.trailing_data", "archive.corrupt", "archive.not_an_archive", "archive.empty",
     "archive.unreadable", "release.not_a_release"],
)  # fmt: skip
def test_what_is_no_release_is_refused_with_its_own_code(place: Fleet, bad_files: dict[str, Path], code: str) -> None:
    refused = heard_by_both(place, bad_files[code])
    assert refused.code == code
    if code.startswith("archive."):
        assert bad_files[code].name in refused.message


def test_a_release_that_is_given_as_a_directory_is_the_same_release(tmp_path: Path) -> None:
    files = skeleton.release()
    sources = (skeleton.write(tmp_path, files), skeleton.lay_out(tmp_path / "release", files))
    place = Fleet(tmp_path)
    built = [place.json("bundle", "build", str(source), "--out", str(tmp_path / "out")) for source in sources]
    assert built[0]["manifest"] == built[1]["manifest"]


def test_a_full_temporary_directory_is_named_and_nothing_is_left(
    tmp_path: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = small_disk(tmp_path / "full")
    monkeypatch.setenv("TMPDIR", str(full))
    source = str(tarball("sensor_gateway", "1.0.0"))
    done = Fleet(tmp_path).cli("bundle", "build", source, "--out", str(tmp_path / "out"), ok=(1,))
    refused = to_people(done)
    assert refused.code == "archive.spool"
    assert str(full) in refused.message
    assert list(full.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_missing_erlang_is_named_with_its_package_by_dev(tmp_path: Path) -> None:
    """`./dev` where Erlang and apt-get are not on the PATH: it says what is missing and does nothing."""
    for tool in ("bash", "sh", "dirname", "readlink", "flock", "mkdir", "python3", "rebar3", "mix", "mosquitto", "ps",
                 "git", "openssl", "busybox", "ss", "curl", "shellcheck", "id"):  # fmt: skip
        found = next((p for folder in os.get_exec_path() if (p := Path(folder, tool)).exists()), None)
        if found:
            (tmp_path / tool).symlink_to(found)
    dev = Path(__file__).parents[2] / "dev"
    environment = {"PATH": str(tmp_path), "PYTHON": sys.executable, "HOME": str(tmp_path)}
    done = subprocess.run([dev, "setup"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: missing here: erlang-base" in done.stderr
    assert "hint: " in done.stderr
