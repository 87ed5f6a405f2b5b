"""`beamfleet flash --root`: a Debian that does not run becomes a device; what is not fit is refused unwritten."""

import json
import os
import pty
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flash.conftest import run
from tests.support import examples, rootfs
from tests.support.fleet import Fleet, free_port, key_values
from tests.support.nspawn import Machine

pytestmark = [pytest.mark.suite(name="flash")]
APP = "/var/lib/beamfleet/apps/main"
UNSAFE = "--allow-unsafe-filesystem"
Mounted = Callable[..., Path]


def words(root: Path, device: str, packages: Path, *more: str) -> list[str]:
    return ["flash", "--root", str(root), "--id", device, "--packages", str(packages), "--yes", *more]


def booted(root: Path, room: Path, name: str) -> Machine:
    """The root as a machine; what it writes lies in the room."""
    machine = Machine(root, room, name, "/srv/disk", network=True)
    try:
        machine.boot()
    except BaseException:
        machine.close()
        raise
    return machine


def look(fleet: Fleet, device: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.json("device", "show", device)
    return found


def tree(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """Every path of a root with mode, owner, size and target: what a flash that is refused must not touch."""
    seen = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            place = Path(folder, name)
            state = place.lstat()
            target = str(place.readlink()) if place.is_symlink() else ""
            seen[str(place.relative_to(root))] = (state.st_mode, state.st_mtime_ns, state.st_size, target)
    return seen


@pytest.fixture
def debian(room: Path, tmp_path: Path) -> Path:
    """A Debian 12 that has never booted, on whatever this machine's disk is."""
    return rootfs.unpack(tmp_path / "debian")


def test_a_flashed_root_boots_enrols_gets_a_release_and_commits_it(
    fleet: Fleet, packages: Path, mounted: Mounted, tmp_path: Path
) -> None:
    root = rootfs.unpack(mounted(700))
    more = ("--env", f"SENSOR_GATEWAY_PORT={free_port()}", "--trial-s", "2", "-l", "site=root")
    done = json.loads(fleet.cli(*words(root, "root-1", packages, *more), "-o", "json").stdout)
    assert (done["device"], done["enrolled"], done["setup"]["unsafe_filesystem"]) == ("root-1", False, False)
    assert done["package"].endswith("_amd64_py311.deb")
    machine = booted(root, tmp_path / "room", "root-1")
    try:
        fleet.wait_online("root-1")
        assert look(fleet, "root-1")["labels"] == {"site": "root"}
        fleet.cli("push", str(examples.tarball("sensor_gateway", "1.0.0")), "--device", "root-1", timeout_s=280)
        assert key_values(machine.path(f"{APP}/boot/state"))["phase"] == "committed"
        assert machine.run("stat", "-c", "%U", f"{APP}/data").stdout.strip() == "beamfleet-app"
    finally:
        machine.close()


def refused(fleet: Fleet, *words: str) -> set[str]:
    """The codes with which a flash is refused."""
    told = json.loads(fleet.cli(*words, "-o", "json", ok=(1,)).stdout)
    assert all(each["hint"] for each in (told, *told.get("others", ())))
    return {told["code"], *(each["code"] for each in told.get("others", ()))}


UNFIT: dict[str, Callable[[Path], object]] = {
    "flash.python": lambda root: take(root, "usr/bin/python3*"),
    "flash.init": lambda root: take(root, "usr/sbin/init", "usr/lib/systemd/systemd"),
    "flash.abilities": lambda root: take(root, "usr/bin/flock"),
    "flash.libc": lambda root: age(root, "2.31"),
    "flash.arch": lambda root: disguise(root / "usr/bin/dash", machine=243),
    "flash.no_root": lambda root: (root / "etc").rename(root / "not-etc"),
}


def take(root: Path, *patterns: str) -> None:
    """Remove what fits."""
    for pattern in patterns:
        for place in list(root.glob(pattern)):
            place.unlink()


def age(root: Path, version: str) -> None:
    """Have the glibc of a root say that it is of another version."""
    take(root, "usr/lib/*-linux-*/libc.so.6")
    (root / "usr/lib/libc.so.6").write_bytes(f"release version {version}".encode())


def disguise(program: Path, machine: int) -> None:
    """Have an ELF file say that it is for another machine (243 is RISC-V)."""
    content = bytearray(program.read_bytes())
    content[18:20] = machine.to_bytes(2, "little")
    program.unlink()  # it is a hard link
    program.write_bytes(bytes(content))
    program.chmod(0o755)


def test_what_is_not_fit_is_refused_with_the_remedy_before_anything_is_written(
    fleet: Fleet, packages: Path, debian: Path, tmp_path: Path
) -> None:
    for code, spoil in UNFIT.items():
        root = tmp_path / "spoilt"
        run("cp", "-al", debian, root)
        spoil(root)
        before = tree(root)
        assert code in refused(fleet, *words(root, "unfit-1", packages, UNSAFE)), code
        assert tree(root) == before, code
        run("rm", "-rf", root)
    assert refused(fleet, *words(debian, "unfit-1", tmp_path / "nothing", UNSAFE)) == {"flash.no_package"}
    assert "unfit-1" not in {token["device"] for token in fleet.json("token", "list")}


def test_a_musl_system_without_a_package_for_it_is_refused(fleet: Fleet, packages: Path, debian: Path) -> None:
    shell = debian / "usr/bin/dash"
    content = shell.read_bytes()
    loader = b"/lib64/ld-linux-x86-64.so.2"
    assert loader in content
    shell.write_bytes(content.replace(loader, b"/lib/ld-musl-x86_64.so.1".ljust(len(loader), b"\0")))
    before = tree(debian)
    told = json.loads(fleet.cli(*words(debian, "unfit-2", packages, UNSAFE), "-o", "json", ok=(1,)).stdout)
    assert told["code"] == "flash.no_package"
    assert "apk" in told["detail"]
    assert "--format apk" in told["hint"]
    assert tree(debian) == before


def test_a_file_system_that_will_not_do_is_refused(
    fleet: Fleet, packages: Path, mounted: Mounted, debian: Path
) -> None:
    unsafe, small = mounted(500, "ext2"), mounted(260)
    for root in (unsafe, small):
        run("cp", "-a", f"{debian}/.", root)
    with (small / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - (8 << 20))
    assert refused(fleet, *words(unsafe, "unfit-3", packages)) == {"flash.filesystem"}
    assert refused(fleet, *words(small, "unfit-3", packages)) == {"flash.space"}
    run("mount", "-o", "remount,ro", unsafe)
    assert refused(fleet, *words(unsafe, "unfit-3", packages, UNSAFE)) == {"flash.read_only"}


def test_a_dry_run_shows_the_plan_and_a_script_that_does_not_say_yes_changes_nothing(
    fleet: Fleet, packages: Path, debian: Path
) -> None:
    before = tree(debian)
    asked = [word for word in words(debian, "root-2", packages, UNSAFE) if word != "--yes"]
    plan = fleet.json(*asked, "--dry-run")
    assert (plan["device"], plan["facts"]["init"], plan["facts"]["packager"]) == ("root-2", "systemd", "dpkg")
    assert plan["steps"][0] == f"install {plan['package']}"
    told = json.loads(fleet.cli(*asked, "-o", "json", ok=(2,)).stdout)
    assert told["code"] == "usage.not_asked"
    assert tree(debian) == before


def on_a_terminal(fleet: Fleet, answer: bytes, *words: str) -> tuple[int, str]:
    """`beamfleet WORDS` in front of somebody who answers its one question: exit code and what was shown."""
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        [str(fleet.programs / "beamfleet"), *words],
        env={**os.environ, "BEAMFLEET_CONFIG_DIR": str(fleet.work / "operator"), "TERM": "dumb"},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown, answered = b"", False
    try:
        while piece := os.read(person, 4096):
            shown += piece
            if b"[y/N]" in shown and not answered:
                os.write(person, answer)
                answered = True
    except OSError:
        pass  # the terminal ends with its last process
    finally:
        os.close(person)
    return process.wait(60), shown.decode()


def test_a_person_is_shown_the_plan_and_asked(fleet: Fleet, packages: Path, debian: Path) -> None:
    asked = [word for word in words(debian, "root-6", packages, UNSAFE) if word != "--yes"]
    before = tree(debian)
    code, shown = on_a_terminal(fleet, b"n\n", *asked)
    assert (code, tree(debian)) == (1, before)
    assert "Debian GNU/Linux 12" in shown
    assert "2. lay down root-6; with a new token for one device" in shown
    assert on_a_terminal(fleet, b"y\n", *asked)[0] == 0
    assert 'device = "root-6"' in (debian / "etc/beamfleet/agent.toml").read_text()


def test_flash_that_is_killed_anywhere_and_run_again_gives_the_same_device(
    fleet: Fleet, packages: Path, bundle: Path, debian: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    run("cp", "-a", debian, whole)
    more = (UNSAFE, "--env", "A=b", "--bundle", str(bundle))
    began = time.monotonic()
    fleet.cli(*words(whole, "root-3", packages, *more))
    took_s = time.monotonic() - began
    expected = shape(whole)
    for attempt in range(4):
        delay_s = took_s * random.uniform(0.3, 1)  # noqa: S311 - a point in time, and the message says which
        begun = fleet.begin(*words(debian, "root-3", packages, *more))
        try:
            begun.wait(delay_s)
        except subprocess.TimeoutExpired:
            begun.send_signal(signal.SIGKILL)
        begun.communicate()
        fleet.cli(*words(debian, "root-3", packages, *more))
        assert shape(debian) == expected, f"attempt {attempt}, killed after {delay_s:.3f} s"


def shape(root: Path) -> dict[str, tuple[int, int, int, str]]:
    """All that is on a root but for logs, the packager's own copies and times."""
    found = {}
    for path, (mode, _, size, target) in tree(root).items():
        if path.startswith(("var/log/", "var/lib/dpkg/", "var/lib/systemd/", "var/cache/")):
            continue
        state = (root / path).lstat()
        found[path] = (mode, state.st_uid, size if not (root / path).is_dir() else 0, target)
    return found


def test_remove_takes_the_agent_away_and_wipe_all_that_the_device_was(
    fleet: Fleet, packages: Path, debian: Path
) -> None:
    before = shape(debian)
    fleet.cli(*words(debian, "root-4", packages, UNSAFE, "--env", "SECRET=1"))
    target = ("flash", "--root", str(debian), "--remove", "--yes")
    kept = fleet.json(*target)
    assert kept["device"] == "root-4"
    assert not (debian / "usr/lib/beamfleet/launcher").exists()
    assert not list((debian / "etc/systemd/system/multi-user.target.wants").glob("beamfleet*"))
    assert (debian / "var/lib/beamfleet/identity/token").exists()
    fleet.cli(*words(debian, "root-4", packages, UNSAFE))
    assert "SECRET=1" in (debian / "etc/beamfleet/app.env").read_text()
    fleet.cli(*target, "--wipe")
    left = {path for path in set(shape(debian)) - set(before) if "beamfleet" in path}
    assert {path for path in left if not path.startswith(("run/", "etc/systemd/"))} == set()


def test_a_root_without_a_packager_gets_the_files_and_loses_them_again(
    fleet: Fleet, packages: Path, debian: Path
) -> None:
    run("rm", "-rf", debian / "var/lib/dpkg", debian / "usr/lib/systemd/systemd", debian / "usr/sbin/init")
    (debian / "usr/sbin/init").symlink_to("/bin/busybox")
    (debian / "usr/bin/busybox").write_bytes((debian / "usr/bin/dash").read_bytes())
    (debian / "etc/inittab").write_text("::sysinit:/etc/init.d/rcS")
    before = shape(debian)
    fleet.cli(*words(debian, "root-5", packages, UNSAFE))
    assert (debian / "usr/lib/beamfleet/launcher").stat().st_mode & 0o111
    assert "beamfleet-app:x:" in (debian / "etc/passwd").read_text()
    inittab = (debian / "etc/inittab").read_text()
    assert inittab.startswith("::sysinit:/etc/init.d/rcS\n# beamfleet: begin\n")
    assert "::respawn:/usr/lib/beamfleet/launcher\n" in inittab
    fleet.cli(*words(debian, "root-5", packages, UNSAFE))
    assert (debian / "etc/inittab").read_text() == inittab
    fleet.cli("flash", "--root", str(debian), "--remove", "--wipe", "--yes")
    assert (debian / "etc/inittab").read_text() == "::sysinit:/etc/init.d/rcS\n"
    assert {path for path in set(shape(debian)) - set(before) if "beamfleet" in path} == set()
