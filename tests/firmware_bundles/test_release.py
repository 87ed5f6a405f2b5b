from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_bundles.build.release import Found, detect
from beamfleet_bundles.build.tree import Tree
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.manifest import Application

from tests.support.refusal import refusal
from tests.support.skeleton import ERTS, Files, members, rel, release

REL = "releases/1.0.0/my_app.rel"


def tree(folder: Path, files: Files, links: dict[str, str] | None = None) -> Tree:
    made = Tree(folder)
    for info, data in members(files):
        made.replace(info.name, data, executable=bool(info.mode & 0o100))
    made.links = links or {}
    return made


def detected(folder: Path, files: Files, links: dict[str, str] | None = None) -> Found:
    return detect(tree(folder, files, links))


@pytest.mark.parametrize("kind", ["relx", "mix", "systools"])
def test_each_kind_is_told_by_what_its_tool_leaves(tmp_path: Path, kind: str) -> None:
    found = detected(tmp_path, release(kind))
    assert (found.release.kind, found.release.name, found.version) == (kind, "my_app", "1.0.0")
    assert (found.release.erts, found.release.otp) == (ERTS, 25)
    assert found.release.applications[2] == Application("my_app", "1.0.0", "permanent")


def test_the_name_is_that_of_the_term_and_not_of_the_file(tmp_path: Path) -> None:
    files = release()
    files["releases/1.0.0/other.rel"] = files.pop(REL)
    assert detected(tmp_path, files).release.name == "my_app"


def test_the_active_version_is_taken_where_several_lie(tmp_path: Path) -> None:
    files = release() | {"releases/0.9.0/my_app.rel": rel("my_app", "0.9.0")}
    assert detected(tmp_path, files).version == "1.0.0"


def test_all_forms_of_an_application_are_known(tmp_path: Path) -> None:
    files = release()
    files[REL] = (
        b'{release, {"my_app","1.0.0"}, {erts,"13.1.5"}, [{kernel,"8.5.3",permanent},{stdlib,"4.2",[kernel]},'
        b'{my_app,"1.0.0",load,[]}]}.'
    )
    starts = [application.start for application in detected(tmp_path, files).release.applications]
    assert starts == ["permanent", "permanent", "load"]


@pytest.mark.parametrize(("erts", "otp"), [("13.2.2.11", 25), ("14.0", 26), ("15.2", 27), ("16.0", 28), ("17.0", 29)])
def test_the_otp_version_follows_from_erts(tmp_path: Path, erts: str, otp: int) -> None:
    files = {path.replace(ERTS, erts): data for path, data in release().items()}
    files[REL] = rel("my_app", "1.0.0", erts)
    files["releases/start_erl.data"] = f"{erts} 1.0.0\n".encode()
    assert detected(tmp_path, files).release.otp == otp


def without(*prefixes: str) -> Callable[[Files], Files]:
    return lambda files: {path: data for path, data in files.items() if not path.startswith(prefixes)}


def with_file(path: str, data: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {path: data}


BROKEN: dict[str, list[Callable[[Files], Files]]] = {
    "release.not_a_release": [without("releases"), lambda _: {"etc/motd": b"hello"}],
    "release.no_erts": [without("erts-"), lambda files: without("erts-")(files) | {"erts-12.0/bin/erlexec": b""}],
    "release.erts_incomplete": [without(f"erts-{ERTS}/bin/{name}") for name in ("erlexec", "beam.smp", "heart")],
    "release.no_application": [without("lib/kernel"), without("lib/my_app-1.0.0/ebin/my_app.app"), without("lib")],
    "release.several": [
        lambda files: without("releases/start_erl.data")(files) | {"releases/2/b.rel": rel("b", "2")},
        with_file("releases/1.0.0/b.rel", rel("b", "1.0.0")),
    ],
    "release.term": [with_file(REL, b"{release"), with_file(REL, b""), with_file(REL, b"\xff\xff")],
    "release.broken": [
        with_file(REL, b"{release}."),
        with_file(REL, b'{release,{"a","1"},{erts,"13"},[kernel]}.'),
        with_file(REL, b'{release,{"a","1"},{erts,"13"},[{kernel,"8",often}]}.'),
        with_file(REL, rel("my_app", "1.0.0", "thirteen")),
        with_file("releases/start_erl.data", b"13.1.5"),
        with_file("releases/start_erl.data", b"13.1.6 1.0.0"),
        with_file("releases/start_erl.data", b""),
    ],
    "release.name": [
        with_file(REL, rel("my app", "1.0.0")),
        with_file(REL, rel("my_app", "../1")),
        with_file(REL, rel("", "1")),
    ],
    "release.otp_too_old": [
        lambda files: (
            {path.replace(ERTS, "12.3"): data for path, data in files.items()}
            | {REL: rel("my_app", "1.0.0", "12.3"), "releases/start_erl.data": b"12.3 1.0.0"}
        )
    ],
    "release.too_large": [with_file(REL, bytes(2 << 20)), with_file("releases/start_erl.data", bytes(2000))],
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, number) for code, changes in BROKEN.items() for number in range(len(changes))]
)
def test_a_broken_release_is_refused_by_what_is_wrong(tmp_path: Path, code: str, number: int) -> None:
    assert refusal(detected, tmp_path, BROKEN[code][number](release())) == code


def test_a_runtime_that_lost_its_modes_is_refused(tmp_path: Path) -> None:
    made = tree(tmp_path, release())
    made.replace(f"erts-{ERTS}/bin/heart", b"", executable=False)
    assert refusal(detect, made) == "release.not_executable"


@pytest.mark.parametrize(
    ("kind", "remedy"), [("relx", "{include_erts, true}"), ("mix", "include_erts: true"), ("systools", "{erts,")]
)
def test_the_remedy_for_a_missing_runtime_is_the_one_of_the_tool(tmp_path: Path, kind: str, remedy: str) -> None:
    with pytest.raises(BundleError) as error:
        detected(tmp_path, without("erts-")(release(kind)))
    assert remedy in error.value.hint


@pytest.mark.parametrize(
    "path", ["lib/my_app-1.0.0", "lib/my_app-1.0.0/ebin", "releases/1.0.0/sys.config", f"erts-{ERTS}"]
)
def test_a_development_build_is_refused_with_its_remedy(tmp_path: Path, path: str) -> None:
    files = {name: data for name, data in release().items() if not name.startswith(path)}
    for target in ("/build/_build/default/lib/my_app", "../../../../lib/my_app"):
        with pytest.raises(BundleError) as error:
            detected(tmp_path, files, {path: target})
        assert error.value.code == "release.dev_mode"
        assert "{dev_mode, false}" in error.value.hint
