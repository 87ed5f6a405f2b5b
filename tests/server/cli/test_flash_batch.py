"""A batch from the command line: real server, real setup, directories as devices."""

import csv
import stat
import subprocess
from pathlib import Path

import pytest
from beamfleet_bundles import pki

from tests.server.cli.terminal import COMMAND, Operator
from tests.server.cli.test_signing import code_of
from tests.support.fleet import Fleet, wait_for

Capture = pytest.CaptureFixture[str]
IDENTITY = Path("var/lib/beamfleet/identity")


def words(manifest: Path, *more: str) -> list[str]:
    return ["flash", "--batch", str(manifest), "--single-user", "--allow-unsafe-filesystem", *more]


def reported(manifest: Path) -> list[tuple[str, str, str]]:
    with manifest.with_name(f"{manifest.name}.report.csv").open() as file:
        return [(row["id"], row["state"], row["code"]) for row in csv.DictReader(file)]


def test_a_batch_goes_on_where_it_failed_and_prints_labels(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    manifest, page = tmp_path / "devices.csv", tmp_path / "labels.html"
    (tmp_path / "b.env").write_text("PORT=9\n")
    (tmp_path / "in-the-way").write_text("a file")
    manifest.write_text(
        "id,serial,labels,root,env_file\n"
        "batch-1,S1,site=berlin,one,\n"
        "batch-2,S2,,in-the-way/two,\n"
        ",S3,site=hamburg rack=2,three,b.env\n"
    )
    options = ("--id-prefix", "batch-", "-l", "line=4", "-l", "site=none", "--jobs", "3", "--label-sheet", str(page))
    first = owner.run(*words(manifest, *options), "-o", "json", capsys=capsys)
    assert first.code == 1
    assert [(each["id"], each["state"]) for each in first.json] == [
        ("batch-1", "done"),
        ("batch-2", "failed"),
        ("batch-s3", "done"),
    ]
    assert "PORT=9" in (tmp_path / "three/etc/beamfleet/app.env").read_text()
    assert page.read_text().count("<section") == 2
    tokens = {each["device"]: each for each in owner.run("token", "list", "-o", "json", capsys=capsys).json}
    assert tokens["batch-1"]["labels"] == {"site": "berlin", "line": "4"}
    assert tokens["batch-s3"]["labels"] == {"site": "hamburg", "rack": "2", "line": "4"}
    secret = (tmp_path / "one" / IDENTITY / "token").read_text().strip()
    assert secret not in first.out + first.err + page.read_text()

    (tmp_path / "in-the-way").unlink()
    again = owner.run(*words(manifest, *options), capsys=capsys)
    assert again.code == 0
    assert "2 of 3 are done already" in again.err
    assert (tmp_path / "one" / IDENTITY / "token").read_text().strip() == secret
    assert page.read_text().count("<section") == 3
    assert sorted(each[:2] for each in reported(manifest)) == [
        ("batch-1", "done"),
        ("batch-2", "done"),
        ("batch-2", "failed"),
        ("batch-s3", "done"),
    ]


def test_identities_that_were_made_for_a_manifest_are_laid_down_by_serial(
    fleet: Fleet, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    manifest, made, page = tmp_path / "devices.csv", tmp_path / "made", tmp_path / "labels.html"
    manifest.write_text("id,serial,labels,root\nmade-1,SN-1,site=a,one\n,SN-2,site=b,two\n")
    provide = ["device", "provision", "--from", str(manifest), "--prefix", "made-", "--out", str(made), "-o", "json"]
    provided = owner.run(*provide, capsys=capsys)
    assert [each["device"] for each in provided.json] == ["made-1", "made-sn-2"]
    assert sorted(each.name for each in made.iterdir()) == ["SN-1", "SN-2"]
    again = owner.run(*provide, capsys=capsys)
    assert [each["serial"] for each in again.json] == [each["serial"] for each in provided.json]
    more = ("--pre-made", str(made), "--label-sheet", str(page), "-o", "json")
    done = owner.run(*words(manifest, *more), capsys=capsys)
    assert (done.code, [each["id"] for each in done.json]) == (0, ["made-1", "made-sn-2"])
    for name, each in zip(("SN-1", "SN-2"), done.json, strict=True):
        assert each["fingerprint"] == pki.fingerprint(pki.load_key(made / name / "key.pem").public_key())
    certificate, _ = pki.load_pair(tmp_path / "two" / IDENTITY / "pair.pem")
    assert pki.read_certificate(certificate).name == "made-sn-2"
    assert owner.run("device", "list", "-l", "site=b", "-o", "name", capsys=capsys).out.split() == ["made-sn-2"]


@pytest.mark.parametrize(
    ("content", "more", "expected", "said"),
    [
        ("id,root\nbad-1,one\nbad-2,\n", (), "flash.batch", "line 3, column root"),
        ("id,root,env_file\nbad-1,one,\nbad-2,two,none.env\n", (), "flash.batch", "line 3, column env_file"),
        ("id,root,env_file\nbad-1,one,bad.env\n", (), "flash.batch", "line 2"),
        ("id,serial,root\nbad-1,S,one\n", ("--pre-made", "nowhere"), "flash.batch", "line 2, column serial"),
        ("id,serial,root\np-s,,one\n,S,two\n", ("--id-prefix", "p-"), "flash.batch", "line 3, column serial"),
        ("id,root\nbad-1,one\n", ("--id", "x"), "usage.batch", "--id does not go with --batch"),
        ("id,root\nbad-1,one\n", ("--root", "x"), "usage.batch", "--root"),
        ("id,root\nbad-1,one\n", ("--count", "2"), "usage.batch", "--count"),
        ("id,root\nbad-1,one\n", ("--expires", "9999d"), "usage.duration", "--expires 9999d"),
        ("id,root,ssh\nbad-1,one,\nbad-2,,h:99999\n", (), "flash.batch", "line 3, column ssh"),
    ],
)
def test_a_manifest_that_is_wrong_does_nothing(
    owner: Operator, capsys: Capture, tmp_path: Path, content: str, more: tuple[str, ...], expected: str, said: str
) -> None:
    manifest = tmp_path / "devices.csv"
    manifest.write_text(content)
    (tmp_path / "bad.env").write_text("no equals sign\n")
    refused = owner.run(*words(manifest, *more), capsys=capsys)
    assert (refused.code, code_of(refused)) == (2 if expected.startswith("usage.") else 1, expected)
    assert said in refused.err
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "operator") == ["bad.env", "devices.csv"]


def test_a_system_is_not_changed_unless_somebody_said_yes(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    manifest = tmp_path / "devices.csv"
    manifest.write_text("id,root\nasked-1,one\n")
    refused = owner.run("flash", "--batch", str(manifest), capsys=capsys)
    assert (refused.code, code_of(refused)) == (2, "usage.not_asked")
    assert code_of(owner.run("flash", "--jobs", "2", capsys=capsys)) == "usage.batch"


def test_a_dry_run_shows_every_plan_and_what_stands_against_it(
    owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    manifest = tmp_path / "devices.csv"
    manifest.write_text("id,root\ndry-1,one\ndry-2,two\n")
    shown = owner.run(*words(manifest, "--dry-run", "-o", "json"), capsys=capsys)
    assert (shown.code, [each["device"] for each in shown.json]) == (0, ["dry-1", "dry-2"])
    assert all(each["steps"] for each in shown.json)
    assert [each.name for each in tmp_path.iterdir() if each.is_dir() and each.name != "operator"] == []


def test_a_single_device_has_one_label(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    page = tmp_path / "label.html"
    root = str(tmp_path / "one")
    more = ("--single-user", "--allow-unsafe-filesystem", "-l", "site=berlin", "--label-sheet", str(page))
    assert owner.run("flash", "--root", root, "--id", "single-1", *more, capsys=capsys).code == 0
    assert 'data-device="single-1"' in page.read_text()


@pytest.mark.parametrize(
    ("sheet", "code"),
    [
        ("devices.csv", "usage.file"),
        ("folder/../devices.csv", "usage.file"),
        ("devices.csv.report.csv", "usage.file"),
        ("app.env", "usage.file"),
        ("/dev/null", "usage.file"),
        ("folder", "file.failed"),
        ("nix/labels.html", "file.failed"),
    ],
)
def test_a_page_of_labels_takes_the_place_of_nothing_and_is_refused_before_a_device_is_flashed(
    owner: Operator, capsys: Capture, tmp_path: Path, sheet: str, code: str
) -> None:
    manifest = tmp_path / "devices.csv"
    manifest.write_text("id,root\npage-1,one\n")
    (tmp_path / "app.env").write_text("A=secret\n")
    (tmp_path / "folder").mkdir()
    there = sorted(tmp_path.iterdir())
    refused = owner.run(*words(manifest, "--label-sheet", str(tmp_path / sheet)), capsys=capsys)
    assert (refused.code, code_of(refused)) == (2 if code == "usage.file" else 1, code)
    assert str(tmp_path / sheet) in refused.err
    assert sorted(tmp_path.iterdir()) == there
    assert (manifest.read_text(), (tmp_path / "app.env").read_text()) == ("id,root\npage-1,one\n", "A=secret\n")


def test_a_batch_that_is_killed_leaves_whole_lines_and_is_ended_by_the_next_run(
    owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    manifest = tmp_path / "devices.csv"
    names = [f"killed-{number}" for number in range(8)]
    manifest.write_text("id,root\n" + "".join(f"{name},{name}\n" for name in names))
    command = [str(COMMAND), "--config-dir", str(owner.directory), *words(manifest, "--jobs", "2")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        report = manifest.with_name("devices.csv.report.csv")
        wait_for("three devices", lambda: report.exists() and report.read_bytes().count(b"\n") > 3, deadline_s=60)
        child.kill()
    before = reported(manifest)
    assert len(before) >= 3
    tokens = {name: (tmp_path / name / IDENTITY / "token").read_text() for name, _, _ in before}
    ended = owner.run(*words(manifest, "--jobs", "2"), capsys=capsys)
    assert ended.code == 0
    assert sorted(reported(manifest)) == [(name, "done", "") for name in names]
    assert {name: (tmp_path / name / IDENTITY / "token").read_text() for name in tokens} == tokens


def test_tokens_are_on_labels_only_when_that_is_asked_for(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    manifest, page = tmp_path / "devices.csv", tmp_path / "labels.html"
    manifest.write_text("id,labels,root\nlabelled-1,site=berlin,one\n")
    refused = owner.run(*words(manifest, "--label-tokens"), capsys=capsys)
    assert (refused.code, code_of(refused)) == (2, "usage.batch")
    done = owner.run(*words(manifest, "--label-tokens", "--label-sheet", str(page)), capsys=capsys)
    assert done.code == 0
    assert "holds a secret" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    (token,) = [
        each for each in owner.run("token", "list", "-o", "json", capsys=capsys).json if each["device"] == "labelled-1"
    ]
    assert token["labels"] == {"site": "berlin"}
    laid = (tmp_path / "one" / IDENTITY / "token").read_text().strip()
    assert laid not in done.out + done.err + manifest.with_name("devices.csv.report.csv").read_text()
    assert owner.run(*words(manifest, "--label-sheet", str(page)), capsys=capsys).code == 0
    assert "holds a secret" not in page.read_text()
