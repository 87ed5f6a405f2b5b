"""What stands against a target: the table of facts and wishes, each with its code and a remedy."""

import re
from dataclasses import replace
from pathlib import Path

import beamfleet_server
import pytest
from beamfleet_bundles.manifest import Requires
from beamfleet_server.flash import checks, errors, looking, packages
from beamfleet_server.flash.checks import Wish, problems
from beamfleet_server.flash.facts import Filesystem, TargetFacts, facts_of, version

NOW = 1_780_000_000.0
DEBIAN = TargetFacts(
    arch="x86_64",
    libc="glibc",
    libc_version=(2, 36),
    python=(3, 11),
    python_path="/usr/bin/python3.11",
    init="systemd",
    packager="dpkg",
    os="Debian GNU/Linux 12",
    filesystem=Filesystem("ext4", ""),
    free_bytes=1 << 30,
    free_inodes=100_000,
    tools=checks.TOOLS,
    libraries=frozenset({"libc.so.6", "libtinfo.so.6", "libssl.so.3"}),
)
ALPINE = replace(DEBIAN, libc="musl", libc_version=None, python=(3, 12), init="openrc", packager="apk")
EXT2 = Filesystem("ext2", "ext2 has no journal")
WISH = Wish(device="gw-1", needed_bytes=20 << 20, now_s=NOW)
RELEASE = Requires("x86_64", "glibc", "2.34", ("libc.so.6", "libtinfo.so.6"), 1)
NEWER = Requires("x86_64", "glibc", "2.38", (), 1)


@pytest.mark.parametrize(
    ("facts", "wish"),
    [
        (DEBIAN, WISH),
        (ALPINE, WISH),
        (replace(DEBIAN, arch="aarch64"), WISH),
        (replace(DEBIAN, arch="armv7l", init="busybox"), WISH),
        (replace(DEBIAN, device="gw-1", enrolled=True), WISH),
        (replace(DEBIAN, device="gw-9", enrolled=True), replace(WISH, device="")),
        (replace(DEBIAN, running=True, clock_s=NOW - 80_000), WISH),
        (replace(DEBIAN, filesystem=EXT2), replace(WISH, allow_unsafe_filesystem=True)),
        (replace(DEBIAN, free_bytes=None, free_inodes=None, libc_version=None, tools=frozenset()), WISH),
        (DEBIAN, replace(WISH, release=RELEASE)),
        (replace(DEBIAN, libraries=frozenset()), replace(WISH, release=RELEASE)),
    ],
)  # fmt: skip
def test_what_is_fit_or_not_known_to_be_unfit_has_nothing_against_it(facts: TargetFacts, wish: Wish) -> None:
    assert problems(facts, wish) == ()


@pytest.mark.parametrize(
    ("facts", "wish", "code", "says"),
    [
        (replace(DEBIAN, arch="riscv64"), WISH, "flash.arch", "riscv64"),
        (replace(DEBIAN, arch=""), WISH, "flash.arch", "cannot be seen"),
        (replace(DEBIAN, libc="", libc_version=None), WISH, "flash.libc", "neither"),
        (replace(DEBIAN, libc_version=(2, 31)), WISH, "flash.libc", "2.31"),
        (replace(DEBIAN, python=None), WISH, "flash.python", "no Python"),
        (replace(DEBIAN, python=(3, 9)), WISH, "flash.python", "3.9"),
        (replace(DEBIAN, init=""), WISH, "flash.init", "no init"),
        (replace(DEBIAN, tools=checks.TOOLS - {"flock", "dd"}), WISH, "flash.abilities", "dd, flock"),
        (replace(DEBIAN, lacking=("mv -T",)), WISH, "flash.abilities", "mv -T"),
        (replace(DEBIAN, read_only=True), WISH, "flash.read_only", "read-only"),
        (replace(DEBIAN, filesystem=EXT2), WISH, "flash.filesystem", "ext2"),
        (replace(DEBIAN, free_bytes=20 << 20), WISH, "flash.space", "21 MB are free"),
        (replace(DEBIAN, free_inodes=10), WISH, "flash.space", "10 inodes"),
        (replace(DEBIAN, running=True, clock_s=0.0), WISH, "flash.clock", "behind"),
        (replace(DEBIAN, running=True, clock_s=NOW + 1e6), WISH, "flash.clock", "ahead"),
        (replace(DEBIAN, arch="aarch64"), replace(WISH, release=RELEASE), "flash.arch", "bundle is for x86_64"),
        (ALPINE, replace(WISH, release=RELEASE), "flash.libc", "bundle is for glibc"),
        (replace(DEBIAN, libc_version=(2, 34)), replace(WISH, release=NEWER), "flash.libc", "2.38"),
        (replace(DEBIAN, libraries=frozenset({"x.so"})), replace(WISH, release=RELEASE), "flash.library", "libtinfo"),
        (replace(DEBIAN, device="gw-9", enrolled=True), WISH, "flash.other_device", "enrolled as gw-9"),
        (replace(DEBIAN, device="gw-9"), WISH, "flash.other_device", "laid down as gw-9"),
        (TargetFacts(is_root=False), WISH, "flash.no_root", "no /etc and /usr"),
    ],
)  # fmt: skip
def test_what_is_unfit_is_named_with_its_remedy(facts: TargetFacts, wish: Wish, code: str, says: str) -> None:
    (problem,) = problems(facts, wish)
    assert problem.code == code
    assert says in problem.message
    assert len(problem.hint) > 10


def test_all_problems_are_told_at_once() -> None:
    unfit = replace(DEBIAN, python=None, read_only=True, init="", free_bytes=0)
    assert [problem.code for problem in problems(unfit, WISH)] == [
        "flash.python", "flash.init", "flash.read_only", "flash.space",
    ]  # fmt: skip


def test_why_a_directory_is_no_root_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("empty", "half/etc", "bare/etc", "bare/usr"):
        (tmp_path / folder).mkdir(parents=True)
    reasons = {
        "missing": "it is not there", "file": "it is a file", "empty": "it is empty", "half": "it has no /usr",
        "bare": "neither a shell nor an init",
    }  # fmt: skip
    for name, why in reasons.items():
        facts = looking.look(tmp_path / name)
        (problem,) = problems(facts, replace(WISH, name=str(tmp_path / name), in_directory=True))
        assert problem.code == "flash.no_root"
        assert str(tmp_path / name) in problem.message
        assert why in problem.message
        assert ("--single-user" in problem.hint) == (name == "empty")
        (problem,) = problems(facts, WISH)
        assert "--single-user" not in problem.hint, "an image is no directory"


def test_what_is_no_root_has_no_further_faults() -> None:
    assert [problem.code for problem in problems(TargetFacts(is_root=False), WISH)] == ["flash.no_root"]


def test_the_page_lists_every_code_of_flashing_and_no_other() -> None:
    page = (Path(beamfleet_server.__file__).parents[1] / "FLASH.md").read_text()
    rows = re.findall(r"^\| (`flash\.[^|]*) \|", page, re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"`([a-z_.]+)`", row)} == errors.CODES


def test_every_code_of_flashing_is_used() -> None:
    folder = Path(beamfleet_server.__file__).parent / "flash"
    text = "\n".join(path.read_text() for path in folder.rglob("*.py") if path.name != "errors.py")
    assert [code for code in errors.CODES if f'"{code}"' not in text] == []


def made(*names: str) -> list[packages.Package]:
    return [package for name in names if (package := packages.parse(Path("/shelf", name)))]


SHELF = made(
    "beamfleet-agent_0.1.0_amd64_py311.deb",
    "beamfleet-agent_0.10.0_amd64_py311.deb",
    "beamfleet-agent_0.9.0_amd64_py311.deb",
    "beamfleet-agent_0.9.0_amd64_py313.deb",
    "beamfleet-agent_0.9.0_arm64_py311.deb",
    "beamfleet-agent_0.9.0_amd64_py312.apk",
    "beamfleet-agent_0.9.0_amd64_py311.ipk",
)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (DEBIAN, "beamfleet-agent_0.10.0_amd64_py311.deb"),
        (replace(DEBIAN, python=(3, 13)), "beamfleet-agent_0.9.0_amd64_py313.deb"),
        (replace(DEBIAN, arch="aarch64"), "beamfleet-agent_0.9.0_arm64_py311.deb"),
        (ALPINE, "beamfleet-agent_0.9.0_amd64_py312.apk"),
        (replace(DEBIAN, packager="opkg", running=True), "beamfleet-agent_0.9.0_amd64_py311.ipk"),
        (replace(DEBIAN, packager="opkg"), "beamfleet-agent_0.10.0_amd64_py311.deb"),
        (replace(DEBIAN, python=(3, 12)), None),
        (replace(DEBIAN, arch="armv7l"), None),
        (replace(DEBIAN, packager="rpm", running=True), None),
    ],
)
def test_the_newest_package_that_fits_is_chosen(facts: TargetFacts, name: str | None) -> None:
    chosen = packages.choose(facts, SHELF)
    assert (chosen.path.name if chosen else None) == name


def test_a_package_that_is_not_there_is_named_and_how_to_make_it() -> None:
    problem = packages.lacking(replace(DEBIAN, arch="armv7l", python=(3, 13)), "/shelf")
    assert problem.code == "flash.no_package"
    assert "beamfleet-agent_*_armhf_py313.deb in /shelf" in problem.message
    assert "./dev package --arch armhf --python 3.13 --format deb" in problem.hint


@pytest.mark.parametrize(
    "name",
    ["beamfleet-agent_1.0_amd64_py311.exe", "beamfleet-agent_1.0_mips_py311.deb", "other_1.0_amd64_py311.deb",
     "beamfleet-agent_1.0_amd64.deb", "beamfleet-agent_../x_amd64_py311.deb"],
)  # fmt: skip
def test_other_files_are_no_packages(name: str) -> None:
    assert packages.parse(Path("/shelf", name)) is None


def test_facts_come_back_from_their_document() -> None:
    facts = replace(DEBIAN, clock_s=NOW, running=True, lacking=("mv -T", "dd"))
    assert facts_of(facts.document()) == replace(facts, lacking=("dd", "mv -T"))
    assert facts_of({"unknown": 1}) == TargetFacts()


@pytest.mark.parametrize(
    "document",
    [{"arch": 5}, {"free_bytes": "many"}, {"free_bytes": True}, {"running": 1}, {"libraries": "libc.so.6"},
     {"tools": [1]}, {"filesystem": "ext4"}, {"filesystem": {"kind": 1}}],
)  # fmt: skip
def test_facts_of_the_wrong_shape_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(document))):
        facts_of(document)


@pytest.mark.parametrize(
    ("text", "found"), [("3.11.2", (3, 11)), ("2.36", (2, 36)), ("3", None), ("3.x", None), ("", None)]
)
def test_a_version_is_its_first_two_numbers(text: str, found: tuple[int, int] | None) -> None:
    assert version(text) == found


def test_a_package_that_was_named_and_does_not_fit_is_told_with_the_one_that_would() -> None:
    board = TargetFacts(arch="aarch64", libc="glibc", python=(3, 11), packager="dpkg")
    told = packages.unfit(board, Path("/p/beamfleet-agent_1_amd64_py311.deb"))
    assert told.code == "flash.no_package"
    assert "beamfleet-agent_1_amd64_py311.deb is no package for this target" in told.message
    assert "beamfleet-agent_*_arm64_py311.deb" in told.message
