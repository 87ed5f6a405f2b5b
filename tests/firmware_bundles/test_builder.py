"""The builder on real releases of relx, mix and systools, and on small ones with one thing wrong."""

import gzip
import io
import random
import tarfile
import tempfile
from pathlib import Path

import pytest
from beamfleet_bundles import launch
from beamfleet_bundles.build.builder import Built, build
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.manifest import LinkEntry, decode
from beamfleet_bundles.probes import Probe, Probes

from tests.support import examples
from tests.support.refusal import refusal
from tests.support.skeleton import Files, header, lay_out, members, release, tar, write


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of its own, so that a test can see what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def built(folder: Path, files: Files, **options: object) -> Built:
    return build(write(folder, files), out_dir=folder / "out", **options)  # type: ignore[arg-type]


REAL = {
    "sensor_gateway-1.0.0": "sensor-gateway 1.0.0 relx",
    "edge_hub-1.0.0": "edge-hub 1.0.0 mix",
    "foreign_relx-0.3.0": "foreign-relx 0.3.0 relx",
    "foreign_mix-0.3.0": "foreign-mix 0.3.0 mix",
    "foreign_systools-0.3.0": "foreign-systools 0.3.0 systools",
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_release_becomes_a_bundle_that_holds_all_of_it(tmp_path: Path, name: str) -> None:
    source = examples.tarball(*name.rsplit("-", 1))
    made = build(source, out_dir=tmp_path)
    bundle = Bundle.open(made.path)
    bundle.verify()
    manifest = bundle.manifest
    assert f"{manifest.product} {manifest.version} {manifest.release.kind}" == REAL[name]
    assert decode(manifest.encode()) == manifest == made.manifest
    assert "libc.so.6" in manifest.requires.libraries
    assert {"kernel", "stdlib"} < {application.name for application in manifest.release.applications}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(source.read_bytes()))) as archive:
        originals = {info.name.removeprefix("./"): info for info in archive if info.isfile()}
        entries = {entry.path: entry for entry in manifest.files}
        assert originals.keys() - {"releases/COOKIE"} == entries.keys() - {launch.PATH}
        for path, entry in entries.items():
            if path == launch.PATH or "vm.args" in path:
                continue
            original = archive.extractfile(originals[path])
            assert original
            data = original.read()
            data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
            assert len(data) == entry.size, path
            assert (entry.mode == "0755") == bool(originals[path].mode & 0o100)


def test_the_start_of_a_foreign_relx_release_is_worked_out(tmp_path: Path) -> None:
    made = build(examples.tarball("foreign_relx", "0.3.0"), out_dir=tmp_path)
    assert made.manifest.launch.config_src == "releases/0.3.0/sys.config.src"
    assert made.manifest.launch.args_src == "releases/0.3.0/vm.args.src"
    assert any("-sname" in notice for notice in made.notices)


def test_debug_information_of_systools_is_told(tmp_path: Path) -> None:
    made = build(examples.tarball("foreign_systools", "0.3.0"), out_dir=tmp_path)
    assert any("debug information" in notice for notice in made.notices)


def test_the_same_release_gives_the_same_bytes_whatever_its_tarball_looks_like(tmp_path: Path) -> None:
    files = release() | {"lib/my_app-1.0.0/priv/data": bytes(range(256)) * 9000}
    link = header("lib/my_app", kind=tarfile.SYMTYPE, target="my_app-1.0.0")
    first = build(write(tmp_path, files, [(link, b"")]), out_dir=tmp_path / "1")
    shuffled = [*members(files), (link, b"")]
    random.Random(7).shuffle(shuffled)  # noqa: S311 # not a secret
    for info, _ in shuffled:
        info.mtime, info.uid, info.uname = 1_700_000_000, 1000, "builder"
        info.name = f"./{info.name}"
    other = tmp_path / "other.tar"
    other.write_bytes(tar(shuffled, tarfile.PAX_FORMAT))
    second = build(other, out_dir=tmp_path / "2")
    folder = lay_out(tmp_path / "folder", files)
    (folder / "lib/my_app").symlink_to("my_app-1.0.0")
    third = build(folder, out_dir=tmp_path / "3")
    assert first.path.read_bytes() == second.path.read_bytes() == third.path.read_bytes()
    assert [entry.path for entry in first.manifest.entries if isinstance(entry, LinkEntry)] == ["lib/my_app"]


def test_product_version_and_hardware_can_be_given(tmp_path: Path) -> None:
    made = built(tmp_path, release(), product="gateway", version="2026.1", hardware="rpi4")
    assert made.path.name == f"gateway-2026.1-{made.manifest.target}.bundle"
    assert made.manifest.target.endswith("-otp25-rpi4")
    assert made.manifest.launch.vsn == "1.0.0"


def test_a_data_schema_that_is_stated_needs_an_agent_that_knows_it(tmp_path: Path) -> None:
    stated, silent = (built(tmp_path, release(), data_schema=number).manifest for number in (7, None))
    assert (stated.launch.data_schema, stated.requires.min_agent) == (7, 2)
    assert (silent.requires.min_agent, b"data_schema" in silent.encode()) == (1, False)


def test_probes_that_have_a_kind_need_an_agent_that_knows_them(tmp_path: Path) -> None:
    probes = Probes(liveness=Probe(tcp=80)), Probes(confirm=True), Probes(http="80/")
    assert [built(tmp_path, release(), probes=one).manifest.requires.min_agent for one in probes] == [3, 3, 1]
    both = built(tmp_path, release(), probes=probes[0], data_schema=7).manifest
    assert both.requires.min_agent == 3


def test_the_launch_file_says_what_the_manifest_says(tmp_path: Path) -> None:
    probes = Probes(http="8080/health", command="bin/my_app ping")
    made = built(tmp_path, release(), probes=probes, distribution="loopback")
    assert made.manifest.launch.probes == probes
    assert made.manifest.launch.distribution == "loopback"
    (entry,) = [entry for entry in made.manifest.files if entry.path == launch.PATH]
    assert entry.size == len(made.manifest.launch.encode())


def test_a_release_packed_with_its_directory_is_unwrapped(tmp_path: Path) -> None:
    plain = built(tmp_path, release())
    made = built(tmp_path, {f"my_app/{path}": data for path, data in release().items()})
    assert made.manifest == plain.manifest
    assert any("the directory my_app" in notice for notice in made.notices)


def test_a_tarball_that_relx_left_in_the_directory_is_left_out(tmp_path: Path) -> None:
    made = build(lay_out(tmp_path / "rel", release() | {"my_app-1.0.0.tar.gz": b"x"}), out_dir=tmp_path)
    assert made.manifest == built(tmp_path, release()).manifest
    assert any("my_app-1.0.0.tar.gz is left out" in notice for notice in made.notices)


def test_secrets_do_not_travel(tmp_path: Path) -> None:
    files = release("mix") | {"releases/1.0.0/vm.args": b"-setcookie another-secret-cookie\n"}
    made = built(tmp_path, files)
    with Bundle.open(made.path).open_pack() as pack:
        content = pack.read()
    assert b"secret-cookie" not in content
    assert "secret-cookie" not in "".join(made.notices)
    assert not any("COOKIE" in entry.path for entry in made.manifest.entries)


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("name.product", {"product": "My App"}),
        ("name.version", {"version": "1/2"}),
        ("name.target", {"hardware": "Pi 4"}),
        ("launch.probe", {"probes": Probes(http="health")}),
        ("launch.probe", {"probes": Probes(command="bin/nothing")}),
        ("launch.probe", {"probes": Probes(readiness=Probe(command="bin/nothing --now"))}),
        ("launch.probe", {"probes": Probes(command="releases/1.0.0/vm.args")}),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, code: str, options: dict[str, object]) -> None:
    assert refusal(built, tmp_path, release(), **options) == code


def test_a_release_whose_name_makes_no_product_needs_one(tmp_path: Path) -> None:
    files = release(name="director")
    assert refusal(built, tmp_path, files) == "name.product"
    assert built(tmp_path, files, product="gateway").manifest.release.name == "director"


def test_nothing_is_left_behind_whatever_happens(tmp_path: Path, temporary: Path) -> None:
    out = tmp_path / "out"
    assert refusal(built, tmp_path, {"etc/motd": b""}) == "release.not_a_release"
    assert not out.exists()
    broken = release() | {"lib/my_app-1.0.0/ebin/my_app.beam": b"broken"}
    assert refusal(built, tmp_path, broken) == "release.broken_beam"
    out.write_bytes(b"in the way")
    assert refusal(built, tmp_path, release()) == "bundle.io"
    out.unlink()
    built(tmp_path, release())
    assert [path.suffix for path in out.iterdir()] == [".bundle"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "member"),
    [
        ("archive.absolute", header("/etc/cron.d/x", 1)),
        ("archive.parent", header("../x", 1)),
        ("archive.link", header("lib/x", kind=tarfile.SYMTYPE, target="../../etc/passwd")),
        ("archive.special", header("dev/sda", kind=tarfile.BLKTYPE)),
        ("archive.setuid", header("bin/su", 1, 0o4755)),
        ("archive.duplicate", header("bin/my_app", 1)),
        ("release.dev_mode", header("lib/dep-1.0", kind=tarfile.SYMTYPE, target="/build/lib/dep")),
    ],
)
def test_hostile_members_in_a_good_release_are_refused(
    tmp_path: Path, temporary: Path, code: str, member: tarfile.TarInfo
) -> None:
    archive = tar([*members(release()), (member, b"x" * min(member.size, 1))])
    path = tmp_path / "release.tar.gz"
    path.write_bytes(gzip.compress(archive, 1))
    assert refusal(build, path, out_dir=tmp_path / "out") == code
    assert list(temporary.iterdir()) == []


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = built(tmp_path, release(), progress=lambda *facts: told.append(facts))
    assert told[0] == ("read", 0, 0)
    assert told[-1] == ("pack", made.manifest.unpacked, made.manifest.unpacked)
