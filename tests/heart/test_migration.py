"""A release whose migration fails damages the owner's data; hooks that copy before the swap and restore after the
revert give the old release what it had.
"""

from pathlib import Path

import pytest

from tests.heart.conftest import Make, Told
from tests.heart.device import TRIAL_S, HeartDevice, application
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, boot_clock_ms

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.timeout(600)]

BACK_S = 15
OWNERS = "what the owner measured for years\n"
DAMAGE = """ok = file:write_file("owner", "half migrat"), ok = file:write_file("count", "999999999\\n"),
    {error, migration_failed}"""
COPY = """#!/bin/sh
set -eu
env | grep ^BEAMFLEET_ | sort >"${BEAMFLEET_DATA%/data}/told.$BEAMFLEET_HOOK"
before=${BEAMFLEET_DATA%/data}/before
rm -rf "$before.new" "$before"
mkdir "$before.new"
cp -a "$BEAMFLEET_DATA/owner" "$BEAMFLEET_DATA/count" "$before.new"
mv "$before.new" "$before"
echo "copied before $BEAMFLEET_TO_SCHEMA"
"""
RESTORE = """#!/bin/sh
set -eu
env | grep ^BEAMFLEET_ | sort >"${BEAMFLEET_DATA%/data}/told.$BEAMFLEET_HOOK"
before=${BEAMFLEET_DATA%/data}/before
[ ! -d "$before" ] || cp -a "$before/." "$BEAMFLEET_DATA"
"""


def hook(device: HeartDevice, point: str, script: str) -> None:
    place = device.root / "usr/lib/beamfleet/hooks.d" / point / "10-data"
    place.parent.mkdir(parents=True, mode=0o755)
    place.write_text(script)
    place.chmod(0o755)


def told_hook(device: HeartDevice, point: str) -> dict[str, str]:
    lines = (device.app / f"told.{point}").read_text().splitlines()
    return dict(line.removeprefix("BEAMFLEET_").split("=", 1) for line in lines)


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_the_old_release_has_its_old_data_after_a_migration_that_failed(make: Make, told: Told, kind: str) -> None:
    device = make(kind)
    device.serve()
    hook(device, "pre-swap", COPY)
    hook(device, "revert", RESTORE)
    (device.app / "data/owner").write_text(OWNERS)
    wait_for("a saved count", (device.app / "data/count").exists, deadline_s=20)
    launch = (device.written("1.1.0") / ".beamfleet/launch").read_bytes() + b"data_schema=2\n"
    device.give(
        NEW, "1.1.0", arguments=(), replaced={".beamfleet/launch": launch, **application(kind, "1.1.0", DAMAGE)}
    )
    answer = device.app / "boot/hook.pre-swap"
    device.boot.request(f"hook pre-swap {NEW} 1")
    said = wait_for("the hook's answer", lambda: answer.exists() and answer.read_text(), deadline_s=30)
    assert said == f"{NEW} 1 0 -\ncopied before 2\n"
    before = int((device.app / "before/count").read_text())
    asked_ms, starts = boot_clock_ms(), device.boot.state().starts
    device.boot.request(f"swap {NEW} 1")
    device.until("the revert", lambda s: s.phase == "reverted", TRIAL_S + 40)
    device.runs(OLD, after=starts + 1)
    away_ms, count = device.back_ms(asked_ms), device.answers(asked_ms)["count"]
    assert isinstance(count, int)
    assert before <= count < before + 10_000
    assert (device.app / "data/owner").read_text() == OWNERS
    assert device.boot.state().failed == f"{NEW}:1:crash"
    assert away_ms <= (TRIAL_S + BACK_S) * 1000
    paths = {name: Path(told_hook(device, point)[name]).name for point in ("revert",) for name in ("FROM", "TO")}
    assert paths == {"FROM": NEW, "TO": OLD}
    assert told_hook(device, "pre-swap")["TO_SCHEMA"] == "2"
    assert told_hook(device, "pre-swap")["FROM_SCHEMA"] == ""
    assert told_hook(device, "revert")["FROM_SCHEMA"] == "2"
    device.alone()
    told(f"old release back after {away_ms} ms")
