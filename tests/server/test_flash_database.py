"""What a stranger's root may not make this machine's dpkg do: run, write or delete outside of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_server.flash import database
from beamfleet_server.flash.errors import FlashError

PATHS = ("/usr/lib/beamfleet/launcher", "/usr/bin/beamfleet-agent")
INFO = "var/lib/dpkg/info"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with our package in its database, as dpkg leaves it."""
    made = tmp_path / "root"
    for folder in (INFO, "var/lib/dpkg/triggers", "var/lib/dpkg/updates", "usr/lib/beamfleet", "usr/bin", "etc", "run"):
        (made / folder).mkdir(parents=True)
    (made / "lib").symlink_to("usr/lib")
    (made / "var/run").symlink_to("/run")
    (made / INFO / "beamfleet-agent.list").write_text("/.\n/usr\n/usr/bin\n/usr/bin/beamfleet-agent\n")
    status = "Package: other\nConffiles:\n /etc/other 0\n\nPackage: beamfleet-agent\nStatus: install ok installed\n"
    (made / "var/lib/dpkg/status").write_text(status)
    (made / "var/lib/dpkg/diversions").write_text("/bin/sh\n/bin/sh.distrib\ndash\n")
    return made


def test_older_scripts_of_ours_are_taken_away_and_no_others(root: Path) -> None:
    for name in ("beamfleet-agent.prerm", "beamfleet-agent:amd64.postrm", "other.prerm", "beamfleet-agents.prerm"):
        (root / INFO / name).write_text("#!/bin/sh\n")
    database.settle(root, PATHS)
    kept = sorted(place.name for place in (root / INFO).iterdir())
    assert kept == ["beamfleet-agent.list", "beamfleet-agents.prerm", "other.prerm"]


def append(name: str, text: str) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(text)

    return do


def link(name: str, target: str) -> Callable[[Path], None]:
    def do(root: Path) -> None:
        place = root / name
        if place.is_dir():
            for each in place.iterdir():
                each.unlink()
            place.rmdir()
        place.unlink(missing_ok=True)
        place.symlink_to(target)

    return do


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(append(f"{INFO}/beamfleet-agent.list", "/../victim\n"), id="a list with dots"),
        pytest.param(append("var/lib/dpkg/diversions", "/usr/bin/beamfleet-agent\n/../x\n:\n"), id="a diversion"),
        pytest.param(append("var/lib/dpkg/diversions", "/usr//bin/x\n/usr/../../x\n:\n"), id="any diversion with dots"),
        pytest.param(append("var/lib/dpkg/status", "Conffiles:\n /../victim 0\n"), id="a conffile with dots"),
        pytest.param(
            append("var/lib/dpkg/updates/0001", "package:beamfleet-agent\nConffiles:\n\t/../x 0\n"), id="news"
        ),
        pytest.param(link("usr/lib/beamfleet", "/var/tmp"), id="an absolute link"),
        pytest.param(link("usr/lib/beamfleet", "../../../victim"), id="a link with dots"),
        pytest.param(link(f"{INFO}/beamfleet-agent.list", "/etc/hostname"), id="a list that is a link"),
        pytest.param(link("run", "/var/tmp"), id="a link for /run"),
        pytest.param(link("run/beamfleet-agent.installing", "/etc/hostname"), id="a link for what a script writes"),
        pytest.param(link("var/lib/dpkg/triggers", "/var/tmp"), id="a link for triggers"),
        pytest.param(link("var/lib/dpkg/status-new", "/var/tmp/x"), id="a link for a new status"),
        pytest.param(link("var/lib/dpkg/updates/tmp.i", "/var/tmp/x"), id="a link for news"),
        pytest.param(link(f"{INFO}/beamfleet-agent.list-new", "/var/tmp/x"), id="a link for a new list"),
    ],
)
def test_what_leads_out_is_refused_before_anything_is_changed(root: Path, spoil: Callable[[Path], None]) -> None:
    script = root / INFO / "beamfleet-agent.prerm"
    script.write_text("#!/bin/sh\n")
    spoil(root)
    with pytest.raises(FlashError) as refused:
        database.settle(root, PATHS)
    assert refused.value.code == "flash.hostile"
    assert script.exists()


def test_links_that_stay_inside_are_right(root: Path) -> None:
    (root / "usr/bin").rmdir()
    (root / "usr/sbin").mkdir()
    (root / "usr/bin").symlink_to("sbin")
    database.settle(root, PATHS)
