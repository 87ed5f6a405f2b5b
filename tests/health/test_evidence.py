"""All that helps to see why, from a real device to its operators: sealed there, opened here, read by nobody else.

And its log, live, with what is secret redacted before it leaves the device.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles import sealing
from beamfleet_server.cli import unpacking

from tests.heart import misfortune
from tests.support import release_slots
from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for
from tests.support.launcher_device import ORDERS

pytestmark = [pytest.mark.suite(name="health"), pytest.mark.timeout(300)]

PASSPHRASE = "five words that do not belong"
SECRET = "hunter2hunter2"
NAME = "talker"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    work = tmp_path_factory.mktemp("evidence") / "fleet"
    with fleet(work, "sensor-gateway") as made:
        made.flash(NAME)
        made.wait_online(NAME)
        bundle = release_slots.with_arguments(tarball("sensor_gateway", "1.0.0"), work / "gateway.tar.gz", ORDERS)
        made.cli("push", str(bundle), "--all", "--timeout", "120")
        (work / "passphrase").write_text(PASSPHRASE)
        yield made


@pytest.fixture(scope="module")
def device(here: Fleet) -> Device:
    return here.devices[NAME]


def passphrase(here: Fleet) -> list[str]:
    return ["--passphrase-file", str(here.work / "passphrase")]


def problem(here: Fleet, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = here.json(*words, ok=(1,))
    return found


def newest(here: Fleet) -> bytes:
    """The newest evidence as the server keeps it."""
    files = sorted((here.data / "evidence" / NAME).glob("*.sealed"))
    return files[-1].read_bytes()


def diagnose(here: Fleet, out: str, *more: str) -> dict[str, Any]:
    words = ("device", "diagnose", NAME, "--out", str(here.work / out), *passphrase(here), *more)
    found: dict[str, Any] = here.json(*words)
    return found


def crash(here: Fleet, device: Device) -> None:
    starts = int(device.boot_state()["starts"])
    said = f'logger:error("the pump does not answer, password={SECRET}"), timer:sleep(100)'
    misfortune.order(device, f"{said}, exit(whereis(sensor_gateway_sup), kill).")
    wait_for("another start", lambda: int(device.boot_state()["starts"]) > starts, deadline_s=60)
    wait_for("the release", lambda: device.http() is not None, deadline_s=60)


def test_without_a_key_nobody_is_asked_and_the_server_cannot_name_one(here: Fleet) -> None:
    refused = problem(here, "device", "diagnose", NAME)
    assert (refused["code"], refused["hint"]) == ("evidence.no_key", "beamfleet keys evidence create NAME")
    assert here.json("keys", "evidence", "list") == []


def test_the_archive_of_a_crash_is_opened_by_the_key_and_by_nothing_else(here: Fleet, device: Device) -> None:
    made = here.json("keys", "evidence", "create", "anna", *passphrase(here))
    assert made["signed"] is True
    assert b"ENCRYPTED" in Path(made["file"]).read_bytes()
    crash(here, device)
    found = diagnose(here, "opened")
    folder = Path(found["folder"])
    assert {"facts.json", "boot/state", "journal", "vm.log", "vm.log.1", "erl_crash.dump"} <= set(found["files"])
    assert "Kernel pid terminated" in (folder / "erl_crash.dump").read_text(errors="replace")
    assert "the pump does not answer" in (folder / "vm.log.1").read_text(errors="replace")
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["status"]["device"], facts["left_out"]) == (NAME, {})
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in [folder, *folder.rglob("*")])
    sealed = newest(here)
    assert SECRET.encode() not in sealed
    assert b"Slogan" not in sealed
    assert [each.key for each in sealing.read_header(sealed).keys] == [made["key"]]


def test_who_has_no_key_keeps_it_sealed_and_another_opens_it(here: Fleet, tmp_path: Path) -> None:
    key = Path(here.json("keys", "evidence", "list")[0]["file"])
    away = key.rename(tmp_path / "anna.key")
    try:
        kept = diagnose(here, "kept.sealed", "--sealed")
        refused = problem(here, "keys", "evidence", "open", kept["sealed"])
        assert refused["code"] == "evidence.key_missing"
        words = ("keys", "evidence", "open", kept["sealed"], "--key", str(away), "--out", str(tmp_path / "opened"))
        assert "facts.json" in here.json(*words, *passphrase(here))["files"]
        assert problem(here, *words, *passphrase(here))["code"] == "evidence.archive", "it is there already"
    finally:
        away.rename(key)


def test_the_device_seals_for_whom_targets_names_and_no_longer_for_whom_it_does_not(here: Fleet) -> None:
    ben = here.json("keys", "evidence", "create", "ben", "--no-passphrase")
    diagnose(here, "for-both")
    assert {each.key for each in sealing.read_header(newest(here)).keys} >= {ben["key"]}
    here.cli("keys", "evidence", "retire", "ben")
    diagnose(here, "for-anna")
    assert ben["key"] not in {each.key for each in sealing.read_header(newest(here)).keys}
    assert problem(here, "keys", "evidence", "retire", "ben")["code"] == "plan.key"


def test_a_dump_that_is_a_link_or_anothers_is_left_out_and_a_huge_one_is_cut(
    here: Fleet, device: Device, tmp_path: Path
) -> None:
    dump = device.path("dump/erl_crash.dump")
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    dump.unlink(missing_ok=True)
    dump.symlink_to(secret)
    assert left_out(diagnose(here, "link")) is not None
    dump.unlink()
    if os.geteuid() == 0:
        dump.write_text(SECRET)
        os.chown(dump, 12345, 12345)
        assert "belongs to user 12345" in str(left_out(diagnose(here, "anothers")))
        dump.unlink()
    with dump.open("wb") as file:
        file.write(b"=erl_crash_dump:0.5\nSun\nSlogan: huge\n")
        file.write(os.urandom(1 << 20) * 8)
        file.truncate(4 << 30)
    found = diagnose(here, "huge")
    assert "of 4294967296 bytes" in str(left_out(found))
    assert (Path(found["folder"]) / "erl_crash.dump").stat().st_size < 16 << 20
    assert len(newest(here)) <= 16 << 20
    dump.unlink()


def left_out(found: dict[str, Any]) -> object:
    folder = Path(found["folder"])
    assert all(SECRET not in path.read_text(errors="replace") for path in folder.glob("erl_crash.dump"))
    return json.loads((folder / "facts.json").read_text())["left_out"].get("erl_crash.dump")


def test_an_upload_that_the_server_dies_under_goes_on_where_it_was(here: Fleet, device: Device) -> None:
    dump = device.path("dump/erl_crash.dump")
    dump.write_bytes(os.urandom(12 << 20))
    waiting = here.begin(
        "device", "diagnose", NAME, "--out", str(here.work / "resumed"), *passphrase(here), "-o", "json"
    )

    def under_way() -> bool:
        parts = [path.stat().st_size for path in (here.data / "evidence" / NAME).glob("*.part")]
        return any(size > 1 << 20 for size in parts)

    wait_for("some of it to come", under_way, deadline_s=60, every_s=0.02)
    here.kill_server()
    out, error = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, error
    assert "erl_crash.dump" in json.loads(out)["files"]
    dump.unlink()


def test_the_newest_five_are_kept(here: Fleet) -> None:
    assert len([*(here.data / "evidence" / NAME).iterdir()]) <= 5


def test_the_log_is_shown_redacted_and_followed_live(here: Fleet, device: Device) -> None:
    misfortune.order(device, f'logger:error("before, token={SECRET}").')
    wait_for("the line", lambda: "before, token" in here.cli("logs", NAME, "--lines", "20").stdout, deadline_s=30)
    shown = here.cli("logs", NAME, "--lines", "50").stdout
    assert SECRET not in shown
    assert "token=[redacted]" in shown
    following = here.begin("logs", NAME, "--follow", "--lines", "0", "-o", "json")
    assert following.stdout is not None
    try:
        wait_for("the device to be asked", lambda: "followed" in here.cli("audit", "list").stdout, deadline_s=30)
        misfortune.order(device, 'logger:error("after a while").')
        for line in following.stdout:
            if "after a while" in json.loads(line)["line"]:
                break
    finally:
        following.terminate()
        following.communicate(timeout=20)


def test_the_device_itself_writes_the_same_archive_for_its_owner(here: Fleet, device: Device, tmp_path: Path) -> None:
    import subprocess
    import sys

    out = tmp_path / "why.tar.zst"
    words = [sys.executable, "-I", "-m", "beamfleet_agent", "--root", str(device.root), "diagnose", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    files = unpacking.read(out.read_bytes())
    assert json.loads(files["facts.json"])["status"]["device"] == NAME
    assert subprocess.run(words, capture_output=True, check=False).returncode == 1, "nothing is overwritten"
    assert not any(name.endswith((".pem", "token", "app.env")) for name in files)


def test_an_offline_device_is_not_asked_and_evidence_goes_with_its_device(here: Fleet, device: Device) -> None:
    device.stop()
    wait_for("it to be offline", lambda: not here.json("device", "show", NAME)["online"], deadline_s=30)
    assert problem(here, "device", "diagnose", NAME)["code"] == "device.offline"
    assert problem(here, "logs", NAME)["code"] == "device.offline"
    here.cli("device", "delete", NAME, "--yes")
    assert not (here.data / "evidence" / NAME).exists()
