"""One simulated device by itself, in a world of which the test is the clock: what it does and says, and what not."""

import heapq
import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from beamfleet_bundles import messages
from beamfleet_bundles.assignment import Assignment
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Custom, Facts
from beamfleet_server.simulator.device import Device
from beamfleet_server.simulator.fate import fate, nature
from beamfleet_server.simulator.memory import Memory
from beamfleet_server.simulator.scenario import parse
from beamfleet_server.simulator.tally import Tally

NAME = "sim-00001"
GOOD = {"times": {"download": "4s", "verify": "1s", "stage": "1s", "swap": "1s", "trial": "10s"}}
WAY = ["downloading", "verified", "staged", "swapping", "trial", "committed"]


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """Time that passes when the test says so; assignments that are what the test says they are."""

    def __init__(self) -> None:
        self.speed, self.tally, self.looks = 1.0, Tally(), 0
        self.metadata = {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "products": {}}
        self.known: dict[bytes, tuple[Assignment, Facts | None]] = {}
        self.later: dict[bytes, tuple[Assignment, Facts | None]] = {}
        self._time, self._order = 0.0, count()
        self._timers: list[tuple[float, int, Timer, Callable[[], None]]] = []

    def now(self) -> int:
        return 1_700_000_000 + int(self._time)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer()
        heapq.heappush(self._timers, (self._time + seconds, next(self._order), timer, call))
        return timer

    def check(self, document: bytes, device: str, last: int) -> tuple[Assignment, Facts | None]:
        assert device == NAME
        if document not in self.known:
            raise BundleError("trust.unknown_target", "not yet")
        said, facts = self.known[document]
        if said.sequence < last:
            raise BundleError("assignment.replayed", "old")
        return said, facts

    def look(self, then: Callable[[], None]) -> None:
        self.looks += 1
        self.known |= self.later
        self.after(0.5, then)

    def fetch(self, device: str, facts: Facts, then: Callable[[], None]) -> None:
        assert (device, facts.custom.product) == (NAME, "sensor-gateway")
        then()

    def offers(self, version: str, sequence: int, attempt: int = 1, *, arch: str = "x86_64") -> bytes:
        """An assignment of this version; of none for a hold."""
        document = f"{version} {sequence}".encode()
        facts = release(version, arch) if version else None
        said = Assignment(NAME, "main", sequence, attempt, 1, path=facts.path if facts else None)
        self.known[document] = (said, facts)
        return document

    def pass_time(self, seconds: float) -> None:
        """Let everything happen that is due by then."""
        end = self._time + seconds
        while self._timers and self._timers[0][0] <= end:
            self._time, _, timer, call = heapq.heappop(self._timers)
            if not timer.cancelled:
                call()
        self._time = end


class Line:
    """A broker that notes what it is given, and reads it as the server does."""

    def __init__(self) -> None:
        self.up, self.cuts = False, 0
        self.said: list[tuple[str, dict[str, Any]]] = []

    def publish(self, kind: str, payload: bytes, expiry_s: int | None = None) -> bool:
        if self.up:
            messages.decode(kind, payload)
            assert (expiry_s is None) == (kind in ("state", "event") or b'"full":true' in payload)
            self.said.append((kind, json.loads(payload)))
        return self.up

    def cut(self, away_s: float) -> None:
        assert away_s > 0
        self.cuts += 1

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [said for each, said in self.said if each == kind]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Each once, however often it was sent."""
        return list({event["seq"]: event for event in self.of("event")}.values())


def release(version: str, arch: str = "x86_64") -> Facts:
    sha256 = f"{version}-{arch}".encode().hex().ljust(64, "0")
    custom = Custom(
        product="sensor-gateway", version=version, counter=int(version[2]) + 1, floor=1, arch=arch, libc="glibc",
        libc_version="", otp=25, erts="13.1", hardware=None, libraries=(), unpacked=1, files=1, min_agent=0,
    )  # fmt: skip
    return Facts(path=f"sensor-gateway/{version}/{arch}-glibc-otp25/manifest", length=1, sha256=sha256, custom=custom)


def begin(scenario: dict[str, Any], memory: Memory | None = None) -> tuple[Device, World, Line]:
    script, world, line = parse(GOOD | scenario), World(), Line()

    def fates(manifest: str, version: str, attempt: int) -> Any:
        return fate(script, 1, NAME, manifest, version, attempt)

    device = Device(NAME, memory or Memory(), nature(script, 1, NAME), fates, world)
    device.attach(line)
    device.start()
    line.up = True
    device.risen()
    return device, world, line


def told(line: Line) -> list[str]:
    """The phases of updates, as the states told them, each once."""
    phases: list[str] = []
    for state in line.of("state"):
        phase = state["update"]["phase"]
        if not phases or phases[-1] != phase:
            phases.append(phase)
    return phases


def newest(line: Line) -> dict[str, Any]:
    return max(line.of("state"), key=lambda state: (state["boot"], state["seq"]))


def test_a_good_device_goes_all_the_way_and_says_each_step() -> None:
    device, world, line = begin({})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(30)
    assert told(line) == ["idle", *WAY]
    state = newest(line)
    assert (state["phase"], state["version"], state["sequence"]) == ("committed", "1.0.0", 1)
    assert list(device.memory.installs.values()) == [1]
    assert [event["kind"] for event in line.events] == ["restart", "update"]


def test_the_same_document_again_and_a_newer_one_for_the_same_release_install_nothing_twice() -> None:
    device, world, line = begin({})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(3)
    device.heard("desired", world.offers("1.0.0", 1))
    device.heard("desired", world.offers("1.0.0", 2))
    world.pass_time(30)
    device.heard("desired", world.offers("1.0.0", 3))
    world.pass_time(30)
    assert list(device.memory.installs.values()) == [1]
    assert world.tally["duplicate_installs"] == 0
    assert newest(line)["sequence"] == 3


def test_a_revert_goes_back_is_spent_and_comes_again_only_with_another_attempt() -> None:
    device, world, line = begin({"behaviours": [{"versions": ["1.2.0"], "reverts": {"after": "3s", "cause": "hang"}}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(30)
    device.heard("desired", world.offers("1.2.0", 2))
    world.pass_time(30)
    state, bad = newest(line), release("1.2.0").sha256
    assert (state["phase"], state["version"], state["update"]["phase"]) == ("reverted", "1.0.0", "reverted")
    assert (state["failed"], state["update"]["reason"]) == (f"{bad[:32]}:1:hang", "hang")
    device.heard("desired", world.offers("1.0.0", 3))
    device.heard("desired", world.offers("1.2.0", 4))
    world.pass_time(30)
    assert (newest(line)["update"]["phase"], newest(line)["update"]["reason"]) == ("failed", "update.quarantined")
    device.heard("desired", world.offers("1.2.0", 5, attempt=2))
    world.pass_time(30)
    assert device.memory.installs[f"{bad}:1"] == device.memory.installs[f"{bad}:2"] == 1


def test_a_power_cut_takes_the_session_begins_another_boot_and_spends_nothing() -> None:
    device, world, line = begin({"behaviours": [{"attempts": 1, "reverts": {"after": "1s", "cause": "power"}}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(30)
    assert (line.cuts, device.memory.boot, device.memory.power_losses, device.memory.spent) == (1, 2, 1, [])
    assert (newest(line)["boot"], newest(line)["update"]["reason"]) == (2, "power")
    device.heard("desired", world.offers("1.0.0", 2, attempt=2))
    world.pass_time(30)
    assert newest(line)["phase"] == "committed"


@pytest.mark.parametrize("phase", ["downloading", "verified", "staged", "swapping"])
def test_who_is_stuck_stays_and_obeys_a_hold_until_it_swaps(phase: str) -> None:
    device, world, line = begin({"behaviours": [{"stuck": phase}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(1000)
    assert newest(line)["update"]["phase"] == phase
    device.heard("desired", world.offers("", 2))
    assert newest(line)["update"]["phase"] == ("swapping" if phase == "swapping" else "idle")
    assert device.memory.installs == {}


def test_a_hold_during_a_trial_is_looked_at_when_it_is_over() -> None:
    device, world, line = begin({})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(10)
    assert newest(line)["update"]["phase"] == "trial"
    device.heard("desired", world.offers("", 2))
    assert newest(line)["sequence"] == 1
    world.pass_time(30)
    assert (newest(line)["sequence"], newest(line)["phase"]) == (2, "committed")


def test_a_liar_says_committed_while_its_ground_says_no() -> None:
    device, world, line = begin({"behaviours": [{"lies": "committed"}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(60)
    assert (newest(line)["update"]["phase"], newest(line)["phase"], newest(line)["slot"]) == ("committed", "none", "")


@pytest.mark.parametrize("lie", ["order", "replay"])
def test_old_numbers_come_again_after_newer_ones(lie: str) -> None:
    device, world, line = begin({"behaviours": [{"lies": lie}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(60)
    numbers = [(state["boot"], state["seq"]) for state in line.of("state")]
    assert numbers != sorted(numbers)
    assert newest(line)["phase"] == "committed"


def test_what_is_not_acknowledged_is_sent_again_ever_more_rarely_and_then_no_more() -> None:
    device, world, line = begin({})
    world.pass_time(100)
    assert len(line.of("state")) == 6  # at 0, 5, 10, 20, 40 and 80 s
    state = newest(line)
    device.heard("ack", {"v": 1, "boot": state["boot"], "seq": state["seq"]})
    world.pass_time(2000)
    assert len(line.of("state")) == 6
    assert not device.voice.waiting


def test_a_server_that_knows_a_later_boot_is_believed() -> None:
    device, _, line = begin({})
    device.heard("ack", {"v": 1, "boot": 41, "seq": 7})
    assert (newest(line)["boot"], device.memory.boot) == (42, 42)


def test_an_unknown_release_has_the_metadata_looked_at_once() -> None:
    device, world, line = begin({})
    document = world.offers("1.0.0", 1)
    world.later[document] = world.known.pop(document)
    device.heard("desired", document)
    world.pass_time(30)
    assert (world.looks, newest(line)["phase"]) == (1, "committed")
    device.heard("desired", b"nobody signs this")
    world.pass_time(30)
    assert world.looks == 2
    assert [event["cause"] for event in line.events if event["kind"] == "error"] == ["trust.unknown_target"]


def test_what_does_not_fit_the_device_fails_before_anything_is_fetched() -> None:
    device, world, line = begin({})
    device.heard("desired", world.offers("1.0.0", 1, arch="aarch64"))
    world.pass_time(30)
    assert newest(line)["update"]["reason"] == "assignment.wrong_target"
    assert world.tally["downloads"] == 0


def test_late_reports_all_arrive_late() -> None:
    _, world, line = begin({"behaviours": [{"late": "60s"}]})
    world.pass_time(59)
    assert line.said == []
    world.pass_time(2)
    assert len(line.of("state")) == 1
    assert line.of("state")[0]["time"] == 1_700_000_000


def test_a_release_that_falls_after_its_commit_is_told_as_a_fallback() -> None:
    device, world, line = begin({"behaviours": [{"versions": ["1.1.0"], "falls": {"after": "20s"}}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(30)
    device.heard("desired", world.offers("1.1.0", 2))
    world.pass_time(60)
    assert "committed" in told(line)
    assert (newest(line)["phase"], newest(line)["version"]) == ("fallback", "1.0.0")


def test_what_comes_with_a_stick_stays_when_the_same_order_comes_again() -> None:
    stick = {"after": "20s", "installs": "sensor-gateway 9.9.9"}
    device, world, line = begin({"behaviours": [{"stick": stick}]})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(60)
    assert (newest(line)["version"], newest(line)["phase"], newest(line)["attempt"]) == ("9.9.9", "committed", 0)
    device.heard("desired", world.offers("1.0.0", 2))
    world.pass_time(60)
    assert (newest(line)["version"], newest(line)["sequence"]) == ("9.9.9", 2)
    device.heard("desired", world.offers("1.0.0", 3, attempt=2))
    world.pass_time(15)
    assert newest(line)["version"] == "1.0.0"


def test_a_run_that_ended_in_a_trial_watches_it_anew() -> None:
    device, world, _ = begin({})
    device.heard("desired", world.offers("1.0.0", 1))
    world.pass_time(10)
    assert device.memory.update.phase == "trial"
    _, again, line = begin({}, device.memory)
    again.pass_time(30)
    assert (newest(line)["phase"], newest(line)["boot"]) == ("committed", 2)
    assert list(device.memory.installs.values()) == [1]
