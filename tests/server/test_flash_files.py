"""What flashing does to the files of a root: paths that never leave it, users, inittab, lists, the package of --deb."""

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from beamfleet_server.flash import deb, looking, removal, units, unpacked, users
from beamfleet_server.flash.directory import DirectoryTarget
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.identity import identity_in
from beamfleet_server.flash.paths import inside, shown
from beamfleet_server.flash.seed import PLACE, lay_seed

PASSWD = "root:x:0:0:root:/root:/bin/sh\nuucp:x:998:998::/:/bin/false\n"
GROUP = "root:x:0:\nuucp:x:998:\n"
SHADOW = "root:*:19000:0:99999:7:::\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The least that a root has, with the usual links."""
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/lib", "etc", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").symlink_to("/usr/lib")
    shutil.copy(shutil.which("true") or "/bin/true", root / "usr/bin/sh")
    for name, content in (("passwd", PASSWD), ("group", GROUP), ("shadow", SHADOW)):
        (root / "etc" / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("link", "target", "path", "found"),
    [
        ("a", "usr/lib", "a/x", "usr/lib/x"),
        ("a", "/usr/lib", "a/x", "usr/lib/x"),
        ("a", "../../../../etc", "a/passwd", "etc/passwd"),
        ("usr/a", "../etc", "usr/a/passwd", "etc/passwd"),
        ("a", "/a/../etc", "a/x", None),
        ("a", "a", "a", None),
        ("a", "x", "../../b", "b"),
        ("a", "x", "./usr/./lib//y/", "usr/lib/y"),
    ],
)
def test_links_are_followed_as_the_target_would_and_never_out_of_it(
    root: Path, link: str, target: str, path: str, found: str | None
) -> None:
    (root / link).symlink_to(target)
    place = inside(root, path)
    assert place == (None if found is None else root / found)
    assert found is None or shown(root, place or root) == f"/{found}"


def test_the_users_are_added_once_with_numbers_that_nobody_has() -> None:
    passwd, group, shadow = users.with_users(PASSWD, GROUP, SHADOW)
    assert passwd == PASSWD + (
        "beamfleet:x:999:999:beamfleet agent:/:/sbin/nologin\n"
        "beamfleet-app:x:997:997:beamfleet release:/:/sbin/nologin\n"
    )
    assert group == GROUP + "beamfleet:x:999:\nbeamfleet-app:x:997:\n"
    assert shadow == SHADOW + "beamfleet:!*:::::::\nbeamfleet-app:!*:::::::\n"
    assert users.with_users(passwd, group, shadow) == (passwd, group, shadow)
    assert users.with_users(PASSWD, GROUP, "")[2] == ""


def test_a_group_that_is_there_keeps_its_number() -> None:
    passwd, group, _ = users.with_users(PASSWD, GROUP + "beamfleet:x:77:", "")
    assert "beamfleet:x:77:77:" in passwd
    assert group.splitlines()[2:] == ["beamfleet:x:77:", "beamfleet-app:x:999:"]


@pytest.mark.parametrize("init", ["busybox", "sysvinit", "openrc", "systemd"])
def test_what_starts_the_device_is_laid_down_once_and_taken_back_whole(root: Path, init: str) -> None:
    (root / "etc/inittab").write_text("::sysinit:/etc/init.d/rcS\n")
    (root / "usr/lib/systemd/system").mkdir(parents=True)
    for unit in units.UNITS:
        (root / "usr/lib/systemd/system" / unit).write_text("[Unit]\n")
    before = files(root)
    units.enable(root, init)
    once = files(root)
    assert once != before
    units.enable(root, init)
    assert files(root) == once
    units.disable(root)
    assert files(root) == before


def files(root: Path) -> dict[str, str]:
    """Every file and link with its content or target."""
    return {
        str(place.relative_to(root)): str(place.readlink()) if place.is_symlink() else place.read_text(errors="replace")
        for place in root.rglob("*")
        if place.is_symlink() or place.is_file()
    }


def test_an_init_that_we_do_not_know_is_left_alone(root: Path) -> None:
    before = files(root)
    units.enable(root, "runit")
    assert files(root) == before


def apk(path: Path, **content: str) -> Path:
    """A package: a compressed tar with these files; `__` in a name is a slash, `LINK:` begins a link's target."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, text in content.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            if text.startswith("LINK:"):
                info.type, info.linkname = tarfile.SYMTYPE, text.removeprefix("LINK:")
                tar.addfile(info)
            else:
                info.size, info.mode = len(text), 0o755
                tar.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(plain.getvalue()))
    return path


def test_a_package_is_unpacked_updated_and_removed_by_its_list(root: Path, tmp_path: Path) -> None:
    before = files(root)
    first = apk(tmp_path / "a.apk", usr__lib__beamfleet__launcher="one", usr__lib__beamfleet__old="x", usr__bin__agent="LINK:../lib/beamfleet/launcher")  # fmt: skip  # noqa: E501
    unpacked.install(root, first)
    assert (root / "usr/bin/agent").read_text() == "one"
    assert (root / "usr/lib/beamfleet/launcher").stat().st_mode & 0o777 == 0o755
    assert "beamfleet-app:" in (root / "etc/passwd").read_text()
    second = apk(tmp_path / "b.apk", usr__lib__beamfleet__launcher="two", usr__bin__agent="LINK:../lib/beamfleet/launcher")  # fmt: skip  # noqa: E501
    unpacked.install(root, second)
    assert (root / "usr/bin/agent").read_text() == "two"
    assert not (root / "usr/lib/beamfleet/old").exists()
    (root / "usr/lib/beamfleet/hooks.d").mkdir()
    (root / "usr/lib/beamfleet/hooks.d/mine").write_text("the owner's")
    assert unpacked.remove(root)
    left = files(root)
    assert left.pop("usr/lib/beamfleet/hooks.d/mine") == "the owner's"
    assert {name for name in left if left[name] != before.get(name)} == {"etc/passwd", "etc/group", "etc/shadow"}
    assert not unpacked.remove(root)


@pytest.mark.parametrize("name", ["usr__lib__..__..__..__x", "..__x"])
def test_a_package_that_leads_out_of_the_root_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(FlashError) as caught:
        unpacked.install(root, apk(tmp_path / "a.apk", **{name: "out"}))
    assert caught.value.code == "flash.no_package"
    assert not (tmp_path / "x").exists()


def test_a_link_in_the_root_does_not_take_a_package_out_of_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "usr/lib/beamfleet").symlink_to(tmp_path / "outside")
    unpacked.install(root, apk(tmp_path / "a.apk", usr__lib__beamfleet__launcher="one"))
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_root_is_what_has_etc_usr_and_a_shell(root: Path, tmp_path: Path) -> None:
    facts = looking.look(root)
    assert (facts.is_root, facts.arch, facts.libc, facts.init, facts.python) == (True, "x86_64", "glibc", "", None)
    assert (facts.packager, facts.agent_version, facts.users) == ("", "", frozenset())
    assert "sh" in facts.tools
    (root / "usr/bin/sh").unlink()
    assert not looking.look(root).is_root
    assert not looking.look(tmp_path / "nowhere").is_root


def test_setpriv_of_busybox_is_not_enough(root: Path) -> None:
    (root / "usr/bin/busybox").write_bytes(b"x")
    (root / "usr/bin/setpriv").symlink_to("busybox")
    assert looking.look(root).lacking == ("setpriv of util-linux",)


@pytest.mark.parametrize(
    ("content", "found"), [('device = "gw-3"\n', "gw-3"), ("device = 3\n", ""), ("device = \n", ""), ("\xff", "")]
)
def test_settings_say_which_device_a_root_is(root: Path, content: str, found: str) -> None:
    (root / "etc/beamfleet").mkdir()
    (root / "etc/beamfleet/agent.toml").write_bytes(content.encode("latin-1"))
    assert identity_in(root) == (found, False)


def test_a_seed_lies_there_whole_and_again(root: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "a.bundle"
    bundle.write_bytes(b"first")
    with pytest.raises(FlashError):
        lay_seed(root, bundle)
    (root / "var/lib/beamfleet").mkdir()
    lay_seed(root, bundle)
    (root / PLACE).with_name(f".{Path(PLACE).name}.new").write_bytes(b"half of it, before a power cut")
    bundle.write_bytes(b"second")
    lay_seed(root, bundle)
    assert [place.name for place in (root / PLACE).parent.iterdir()] == ["seed.bundle"]
    assert (root / PLACE).read_bytes() == b"second"


def test_a_directory_device_is_removed_and_wiped(tmp_path: Path) -> None:
    for name in ("etc/beamfleet/app.env", "usr/lib/beamfleet/launcher", "var/lib/beamfleet/x", "run", "mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    removal.remove_directory(tmp_path, wiped=False)
    assert sorted(files(tmp_path)) == ["etc/beamfleet/app.env", "mine", "var/lib/beamfleet/x"]
    removal.remove_directory(tmp_path, wiped=True)
    assert sorted(files(tmp_path)) == ["mine"]


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_directory_for_a_device(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (problem,) = DirectoryTarget(tmp_path / path).problems()
    assert problem.message == f"{tmp_path}/file is a file, and no directory"


def test_where_no_device_is_nothing_is_removed(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        assert removal.nothing(root) is not None
    assert removal.remove_directory(tmp_path, wiped=True) == []
    (tmp_path / "etc/beamfleet").mkdir(parents=True)
    assert removal.nothing(tmp_path) is None


def test_a_whole_system_is_no_device_in_a_directory_and_no_link_of_it_is_followed_out(tmp_path: Path) -> None:
    root, theirs = tmp_path / "root", tmp_path / "theirs/beamfleet"
    for folder in (root / "run", root / "var", theirs):
        folder.mkdir(parents=True)
    (root / "var/run").symlink_to(theirs.parent)
    assert [each.code for each in DirectoryTarget(root).problems()] == ["flash.no_root"]
    (root / "run").rmdir()
    assert DirectoryTarget(root).problems() == ()
    removal.remove_directory(root, wiped=True)
    assert theirs.is_dir()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here")
def test_the_package_of_a_fleet_s_configuration_is_one_that_dpkg_reads(tmp_path: Path) -> None:
    bundle = tmp_path / "a.bundle"
    bundle.write_bytes(b"release")
    words = {"device": "gw-1", "token": "secret"}
    made = deb.write(tmp_path, words, bundle)
    assert (made.name, made.stat().st_mode & 0o777) == ("beamfleet-device_1_all.deb", 0o600)
    fields = subprocess.run(["dpkg-deb", "-f", made, "Depends"], capture_output=True, text=True, check=True).stdout
    assert fields.strip() == "beamfleet-agent"
    into = tmp_path / "unpacked"
    subprocess.run(["dpkg-deb", "-x", made, into], check=True)
    provision = into / "etc/beamfleet/provision.json"
    assert (json.loads(provision.read_text()), provision.stat().st_mode & 0o777) == (words, 0o600)
    assert (into / "var/lib/beamfleet/seed.bundle").read_bytes() == b"release"
    first = made.read_bytes()
    assert deb.write(tmp_path / "again.deb", words, bundle).read_bytes() == first
