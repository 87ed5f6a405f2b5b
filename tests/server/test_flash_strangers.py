"""Roots that a stranger has made: what is looked at and laid down stays inside of them, and nonsense is told."""

import os
import tarfile
from pathlib import Path

import pytest
from beamfleet_server.flash import looking, unpacked
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.users import with_users

GLIBC = b"GNU C Library (Debian GLIBC) stable release version %s.\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for folder in ("etc", "usr/lib", "usr/bin"):
        (made / folder).mkdir(parents=True)
    (made / "usr/bin/sh").write_bytes(Path("/bin/sh").read_bytes())
    return made


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one directory of its own and a file in it."""
    tree = tmp_path / "tree"
    (tree / "usr/lib/beamfleet").mkdir(parents=True)
    (tree / "usr/lib/beamfleet/launcher").write_text("#!/bin/sh\n")
    with tarfile.open(tmp_path / "agent.apk", "w:gz") as tar:
        tar.add(tree, ".")
    return tmp_path / "agent.apk"


def test_the_libc_is_the_roots_own_whatever_its_links_say(root: Path, tmp_path: Path) -> None:
    (tmp_path / "libc.so.6").write_bytes(GLIBC % b"9.9")
    (root / "usr/lib/libc.so.6").symlink_to(tmp_path / "libc.so.6")
    assert looking.look(root).libc_version is None
    (root / "usr/lib/libc.so.6").unlink()
    (root / "usr/lib/libc-2.36.so").write_bytes(GLIBC % b"2.36")
    (root / "usr/lib/libc.so.6").symlink_to("/usr/lib/libc-2.36.so")
    assert looking.look(root).libc_version == (2, 36)


def test_a_pipe_in_the_place_of_a_library_is_not_read(root: Path) -> None:
    os.mkfifo(root / "usr/lib/libc.so.6")
    assert looking.look(root).libc_version is None


def test_a_package_is_unpacked_inside_even_where_a_link_leads_out(root: Path, package: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (root / "usr/lib/beamfleet").symlink_to(outside)
    unpacked.install(root, package)
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o700
    assert (root / str(outside).lstrip("/") / "launcher").is_file()


@pytest.mark.parametrize("place", ["usr/lib/beamfleet", "usr/lib/beamfleet/launcher/x"])
def test_what_is_in_the_way_of_a_package_is_told(root: Path, package: Path, place: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("")
    with pytest.raises(FlashError) as refused:
        unpacked.install(root, package)
    assert refused.value.code == "flash.no_root"


@pytest.mark.parametrize(
    ("passwd", "group"),
    [
        pytest.param("", "beamfleet", id="no fields"),
        pytest.param("", "beamfleet:x", id="no number"),
        pytest.param("", "beamfleet:x:many:", id="a word for a number"),
        pytest.param("", "".join(f"u{n}:x:{n}:\n" for n in range(1000)), id="no number is free"),
    ],
)
def test_accounts_that_make_no_sense_are_told(passwd: str, group: str) -> None:
    if group == "beamfleet":
        assert "beamfleet:x:999:" in with_users(passwd, group, "")[1]  # that line is about nobody
        return
    with pytest.raises(FlashError) as refused:
        with_users(passwd, group, "")
    assert refused.value.code == "flash.no_root"
