"""`beamfleet flash --batch` on whole root file systems, two at a time; one that is unfit holds nobody up."""

import csv
import json
from pathlib import Path

import pytest

from tests.flash.conftest import run
from tests.support import rootfs
from tests.support.fleet import Fleet

pytestmark = [pytest.mark.suite(name="flash")]
IDENTITY = "var/lib/beamfleet/identity"


def test_roots_are_flashed_side_by_side_and_an_unfit_one_is_told_of(
    fleet: Fleet, packages: Path, tmp_path: Path
) -> None:
    first = rootfs.unpack(tmp_path / "reader-1")
    for number in (2, 3):
        run("cp", "-a", first, tmp_path / f"reader-{number}")
    (tmp_path / "reader-3/usr/bin/flock").unlink()
    manifest, page = tmp_path / "devices.csv", tmp_path / "labels.html"
    manifest.write_text(
        "id,serial,labels,root\nroots-1,A1,site=a,reader-1\nroots-2,A2,site=b,reader-2\nroots-3,A3,site=c,reader-3\n"
    )
    words = ["flash", "--batch", str(manifest), "--packages", str(packages), "--allow-unsafe-filesystem", "--yes"]
    words += ["--jobs", "3", "--label-sheet", str(page), "-o", "json"]
    told = json.loads(fleet.cli(*words, ok=(1,), timeout_s=200).stdout)
    assert [(each["id"], each["state"], each["code"]) for each in told] == [
        ("roots-1", "done", ""),
        ("roots-2", "done", ""),
        ("roots-3", "failed", "flash.abilities"),
    ]
    assert not (tmp_path / "reader-3/etc/beamfleet").exists()
    tokens = [(tmp_path / f"reader-{number}" / IDENTITY / "token").read_bytes() for number in (1, 2)]
    told = json.loads(fleet.cli(*words, ok=(1,), timeout_s=200).stdout)
    assert [each["state"] for each in told] == ["done", "done", "failed"]
    assert [(tmp_path / f"reader-{number}" / IDENTITY / "token").read_bytes() for number in (1, 2)] == tokens
    for number in (1, 2):
        settings = (tmp_path / f"reader-{number}" / "etc/beamfleet/agent.toml").read_text()
        assert f'device = "roots-{number}"' in settings
    assert page.read_text().count("<section") == 2
    with manifest.with_name("devices.csv.report.csv").open() as file:
        assert sorted(row["state"] for row in csv.DictReader(file)) == ["done", "done", "failed", "failed"]
