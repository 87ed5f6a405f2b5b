"""A device whose clock shows 1970, 2040, or one thing after another: it goes back to nothing, believes no date that
nobody signed, and is well as soon as its clock is.

The clock is that of the whole agent and its workers, by libfaketime; server and launcher keep the true one."""

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.fleet import Device, Fleet, wait_for
from tests.support.interception import always
from tests.support.thief import Thief
from tests.trust.threats.captive import (
    PRODUCT,
    Captive,
    built,
    captured,
    committed,
    failures,
    logged,
    running_device,
    seen,
    start_rollout,
)

pytestmark = pytest.mark.suite(name="trust")

LONG_AGO, FAR_AHEAD = datetime(1970, 1, 2, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


def library() -> Path:
    """libfaketime, where Debian and others put it."""
    for place in ("/usr/lib", "/usr/lib64", "/usr/local/lib"):
        for found in Path(place).glob("**/faketime/libfaketime.so.1"):
            return found
    pytest.fail("libfaketime is not installed; ./dev test trust installs it")


class Clock:
    """The clock of a device's agent."""

    def __init__(self, device: Device) -> None:
        self._device, self._file = device, device.root.parent / f"{device.name}.clock"
        words = {
            "LD_PRELOAD": str(library()), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip
        device.stop()
        script = (device.root / "run").read_text()
        before, after = script.rsplit("\nkeep ", 1)
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in words.items())
        (device.root / "run").write_text(f"{before}\nkeep env {given} {after}")
        self.show(None)
        device.start()

    def show(self, moment: datetime | None) -> None:
        """Set it; None is the true time."""
        offset = 0 if moment is None else int(moment.timestamp() - time.time())
        self._file.write_text(f"{offset:+d}\n")


@pytest.fixture(scope="module")
def device(here: Fleet) -> Device:
    return running_device(here, "timeless")


@pytest.fixture(scope="module")
def clock(device: Device) -> Clock:
    return Clock(device)


def kept(device: Device) -> dict[str, bytes]:
    """What the device believes, and what it is."""
    folder = device.root / "var/lib/beamfleet"
    return {str(path): path.read_bytes() for room in ("trust", "identity") for path in (folder / room).rglob("*.*")} | {
        "clock": (folder / "trust/clock").read_bytes()
    }


def floor(device: Device) -> int:
    """The newest time that was signed to it."""
    return int(json.loads((device.root / "var/lib/beamfleet/trust/clock").read_bytes())["time"])


def said_in(device: Device, year: int) -> int:
    """How many lines the agent has written in this year, by its clock."""
    return sum(f'"timestamp": "{year}-' in line for line in device.console(100_000).splitlines())


def restarted(device: Device) -> None:
    """A cold start, in which the agent looks at its clock for the first time."""
    device.stop()
    device.start()
    wait_for("the agent", device.agent_pid, deadline_s=30)


def test_in_1970_a_device_is_reached_takes_the_newest_release_and_learns_the_time(
    here: Fleet, device: Device, clock: Clock
) -> None:
    began = int(time.time())
    clock.show(LONG_AGO)
    restarted(device)
    here.wait_online("timeless")
    other = start_other(here, device)
    committed(device, other)
    assert said_in(device, 1970) > 3, "it was 1970 all the time"
    assert began - 3600 <= floor(device) <= time.time() + 60


def start_other(here: Fleet, device: Device) -> str:
    """Roll out the one of two releases that does not run; its version."""
    running = wait_for("an answer", device.http, deadline_s=30)["version"]
    other = "1.0.0" if running == "1.1.0" else "1.1.0"
    start_rollout(here, device.name, other)
    return other


def test_in_2040_nothing_is_believed_nothing_moves_and_it_heals_when_the_time_is_back(
    here: Fleet, device: Device, clock: Clock
) -> None:
    clock.show(None)
    restarted(device)
    here.wait_online("timeless")
    wait_for("the worker to end", lambda: device.worker_pid() is None, deadline_s=30)
    before, believed, pid = seen(device), kept(device), device.agent_pid()
    told = len(failures(device))
    clock.show(FAR_AHEAD)
    os.kill(wait_for("the agent", device.agent_pid, deadline_s=30), signal.SIGTERM)
    wait_for("another agent", lambda: device.agent_pid() not in (None, pid), deadline_s=30)
    start_other(here, device)
    wait_for("a refusal", lambda: logged(device, "session down") and said_in(device, 2040) > 3, deadline_s=60)
    wait_for("the worker to end", lambda: device.worker_pid() is None, deadline_s=60)
    assert seen(device) == before
    assert kept(device) == believed
    assert not here.json("device", "show", "timeless")["online"] or failures(device)[told:]
    clock.show(None)
    other = "1.0.0" if wait_for("an answer", device.http, deadline_s=30)["version"] == "1.1.0" else "1.1.0"
    here.wait_online("timeless", deadline_s=120)
    committed(device, other)


@pytest.fixture(scope="module")
def captive(here: Fleet, device: Device, clock: Clock, work: Path) -> Iterator[Captive]:
    with captured(here, device, work / "timeless") as made:
        yield made


def test_in_1970_nothing_older_is_taken(here: Fleet, captive: Captive, clock: Clock, work: Path) -> None:
    device, server = captive.device, Thief(here.data, work / "timeless-server")
    old = captive.front.fetch("/metadata/timestamp.json")
    here.cli("bundle", "publish", built(here, "1.0.2"))
    running = wait_for("an answer", device.http, deadline_s=30)["version"]
    release = server.release(PRODUCT, "1.0.0" if running == "1.1.0" else "1.1.0")
    captive.front.answers["/targets/*"] = always(404)
    captive.refuses("worker.not_found", lambda: captive.push(server.assign("timeless", release)))
    believed = floor(device)
    clock.show(LONG_AGO)
    captive.front.answers = {"/metadata/timestamp.json": always(old)}
    captive.refuses("trust.rollback", lambda: captive.push(server.assign("timeless", release, attempt=2)))
    clock.show(None)
    captive.front.answers.clear()
    assert believed <= floor(device) <= time.time() + 60


def test_a_frozen_server_is_noticed_when_what_it_said_last_has_run_out(
    here: Fleet, captive: Captive, clock: Clock, work: Path
) -> None:
    """Eight days later it still says the same, with good signatures."""
    server = Thief(here.data, work / "timeless-frozen")
    frozen = captive.front.fetch("/metadata/timestamp.json")
    believed = floor(captive.device)
    captive.front.answers["/metadata/timestamp.json"] = always(frozen)
    clock.show(datetime.now(UTC) + timedelta(days=8))
    release = server.release(PRODUCT, "1.0.0")
    captive.refuses("trust.expired", lambda: captive.push(server.assign("timeless", release, attempt=9)))
    assert floor(captive.device) == believed
    clock.show(None)
    captive.front.answers.clear()
