"""Power cuts during updates of a whole device in user-mode Linux: kernel, ext4 with a journal, package, real BEAM.

Two devices live side by side, each until the power has failed during ten updates. An update goes from one release to
the next of three, so that each writes a new slot and removes an old one. The moment of each cut is random, by seed: a
phase of the update, and a time after it began. After each cut the device boots, its files are looked at before anything
of ours runs, and then a release has to answer. An update that was cut goes on by itself; now and then the power fails
again meanwhile.

A cut is SIGKILL to the machine. What the guest wrote is in the host's page cache, in order, so this sees what a death
of everything at once leaves, and never what a disk with a cache of its own loses: that is what `./dev test crash` is
for.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest
from beamfleet_agent.update_state import FINAL

from tests.boot.conftest import Releases
from tests.support import device_disk, uml
from tests.support.console import Console
from tests.support.examples import tarball
from tests.support.guest_device import GuestDevice, guest_disk
from tests.support.packaged import Shipped, Workshop

pytestmark = [pytest.mark.suite(name="boot"), pytest.mark.timeout(1500)]

SEED = 3
DEVICES, CUTS = 2, 10
MOMENTS = {
    '"phase": "downloading", "attempt": [1-9]': 0.5,
    '"phase": "verified"': 0.2,
    '"phase": "staged"': 2.0,
    '"phase": "swapping"': 0.3,
    '"phase": "trial"': 6.0,
    '"line": "confirm': 0.3,
}
"""What the agent says at the beginning of a moment, and how many seconds after it the power fails at the latest."""
OVER = '"phase": "(committed|reverted|failed)"'
AGAIN, SOON_S = 0.3, 4.0
"""How probably the power fails again before the update has ended, and how many seconds later at the latest."""
SETTLED = "until grep -q phase=committed /var/lib/beamfleet/apps/main/boot/state; do sleep 0.2; done"
ANSWER_S = UPDATE_S = 180


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a cut fell, by the journal and by boot/state, and the cause that the device gave later."""

    update: str
    boot: str
    cause: str

    @property
    def during(self) -> bool:
        """Whether it fell into an update, by what the device remembers of it."""
        return self.update not in FINAL


class Life:
    """One device and its power supply. `releases` are in the order of updates, with the version each answers with."""

    def __init__(self, disk: Path, releases: Mapping[Shipped, str], chance: random.Random) -> None:
        self._disk, self._order, self._chance = disk, list(releases), chance
        self._answers = {one.slot: version for one, version in releases.items()}
        self.cuts: list[Cut] = []

    def live(self) -> list[Cut]:
        """From the first boot through all cuts to a last update that nobody disturbs."""
        first, second, *_ = self._order
        with uml.boot(self._disk) as console:
            device = GuestDevice(console)
            device.flash()
            device.switch_on()
            device.install(first, UPDATE_S)
            device.begin_install(second)
            self._fail(console, MOMENTS)
        while not self._over():
            with uml.boot(self._disk) as console:
                device = GuestDevice(console)
                ended = self._recover(device, through=self._chance.random() >= AGAIN)
                if self._over():
                    self._end(device)
                else:
                    self._fail(console, MOMENTS if ended else {})
        assert not device_disk.findings(self._disk)
        return self.cuts

    def _over(self) -> bool:
        return sum(cut.during for cut in self.cuts) == CUTS

    def _end(self, device: GuestDevice) -> None:
        """The last update is committed, and everything is whole."""
        device.console.expect(OVER, UPDATE_S)
        device.console.run(SETTLED, ANSWER_S)
        slot = device.state().slot
        assert device.answer(ANSWER_S)["version"] == self._answers[slot]
        assert slot in device.sound_slots()
        device.console.type("power_off")
        device.console.ended(60)

    def _recover(self, device: GuestDevice, *, through: bool) -> bool:
        """What comes after a cut, with `through` until the next update has begun; whether it has."""
        remembered, boot = device.journal(), device.state()
        since = device.switch_on()
        said = device.answer(ANSWER_S)
        now = device.state()
        self.cuts.append(Cut(remembered.update.phase, boot.phase, now.cause))
        assert said["version"] in {self._answers[boot.slot], self._answers[now.slot]}  # a swap may be due, or done
        assert now.cause == "power" or now.last_request > boot.last_request or now.phase == "reverted"
        assert "is damaged" not in device.console.text
        if remembered.update.phase not in FINAL:
            if not through and not self._over():
                return False
            device.console.expect(OVER, UPDATE_S, since=since)
        device.begin_install(self._next(device.state().slot, {slot for slot, _ in remembered.spent}))
        return True

    def _fail(self, console: Console, moments: Mapping[str, float]) -> None:
        """The power fails at one of these moments, or soon."""
        begins, longest_s = self._chance.choice(list(moments.items())) if moments else ("", SOON_S)
        if begins:
            console.expect(f"{begins}|{OVER}", UPDATE_S)
        console.watch(self._chance.uniform(0, longest_s))
        console.cut()

    def _next(self, slot: str, spent: Collection[str]) -> Shipped:
        """The release after that in a slot which has not failed on this device."""
        here = next(place for place, one in enumerate(self._order) if one.slot == slot)
        return next(one for one in self._order[here + 1 :] + self._order[:here] if one.slot not in spent)


def test_a_release_answers_after_every_power_cut_during_an_update(
    workshop: Workshop, releases: Releases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if why := uml.missing():
        pytest.skip(f"no user-mode Linux: {why}")
    third = workshop.ship("sensor_gateway", "1.0.1", tarball("sensor_gateway", "1.0.0"))
    order = {releases.old: "1.0.0", releases.new: "1.1.0", third: "1.0.0"}
    disk = guest_disk(workshop, tmp_path, trial_s=2)
    lives = [
        Life(device_disk.copy(disk, tmp_path / f"disk-{number}"), order, random.Random(SEED + number))  # noqa: S311
        for number in range(DEVICES)
    ]
    with ThreadPoolExecutor(DEVICES) as threads:
        done = [threads.submit(life.live) for life in lives]
        wait(done)
    cuts = [cut for life in lives for cut in life.cuts]
    with capsys.disabled():
        during = sum(cut.during for cut in cuts)
        print(
            f"\nuser-mode Linux: a release answered after each of {len(cuts)} power cuts, {during} of them in an update"
        )
        for name, counted in (
            ("update", Counter(cut.update for cut in cuts)),
            ("boot/state", Counter(cut.boot for cut in cuts)),
            ("cause", Counter(cut.cause for cut in cuts)),
        ):
            print(f"  {name}: {', '.join(f'{word} {count}' for word, count in counted.most_common())}")
    for one in done:
        one.result()
    assert during == DEVICES * CUTS
