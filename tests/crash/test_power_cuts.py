"""The power fails in every epoch of what the shipped code writes, on real ext4, xfs and btrfs: no promise is broken.

Each recording is made twice: with somebody else's fsync after each step, and without; each hides bugs that the other
shows. Planted bugs prove that broken promises are seen.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash import device, planted, replay, tracer, volume
from tests.crash.device import Versions
from tests.crash.planted import Replayed
from tests.crash.replay import Order, Result

pytestmark = [
    pytest.mark.suite(name="crash"),
    pytest.mark.skipif(bool(tracer.why_not()), reason=tracer.why_not() or "can be traced"),
    pytest.mark.timeout(1800),
]

SUBJECTS = ("worker", "agent", "committed", "reverted")
SIDE_BY_SIDE = 2
TRIES = 3
ENOUGH = 3000

Recording = tuple[str, str, bool]
"""Subject, kind of file system, noise."""
RECORDINGS: list[Recording] = [
    (subject, kind, noise) for kind in volume.KINDS for subject in SUBJECTS for noise in (False, True)
]


class Replays:
    """All recordings and their replays, a few at a time; they begin when the first is asked for."""

    def __init__(self, room: Path, installed: Path, running: Path, bundles: Versions) -> None:
        self._room, self._installed, self._running = room, installed, running
        self._bundles = bundles
        self._workers = ThreadPoolExecutor(SIDE_BY_SIDE)
        self.missing = {name: volume.why_not(kind, room) for name, kind in volume.KINDS.items()}
        self._shipped = {
            recording: self._workers.submit(replay.within, self._order(*recording))
            for recording in RECORDINGS
            if not self.missing[recording[1]]
        }
        self._planted: dict[str, Future[Result]] = {}
        for bug in planted.REPLAYED:
            if not self.missing[bug.kind]:
                self._planted[bug.name] = self._workers.submit(self._with_bug, bug)

    def shipped(self, *recording: str | bool) -> Result:
        """What came of the shipped code."""
        subject, kind, noise = recording
        assert isinstance(kind, str)
        self._need(kind)
        return self._shipped[str(subject), kind, bool(noise)].result()

    def planted(self, bug: Replayed) -> Result:
        """What came of the code with a bug in it."""
        self._need(bug.kind)
        return self._planted[bug.name].result()

    def close(self) -> None:
        """Wait for what has begun, leave out what has not."""
        self._workers.shutdown(cancel_futures=True)

    def _need(self, kind: str) -> None:
        if self.missing[kind]:
            pytest.skip(f"{kind}: {self.missing[kind]}")

    def _order(self, subject: str, kind: str, noise: bool) -> Order:
        template = self._installed if subject == "worker" else self._running
        new, kept = self._bundles.new, f"{self._bundles.runs.slot} {self._bundles.previous.slot}"
        return Order(subject, kind, noise, str(template), str(self._room), str(new.path), new.slot, kept)

    def _with_bug(self, replayed: Replayed) -> Result:
        bug = replayed.bug
        order = self._order(replayed.subject, replayed.kind, replayed.noise)
        place = self._room / f"planted {replayed.name}"
        packages = []
        if bug in planted.LAUNCHER:
            device.renew(Path(order.template), place)
            bug.plant(place / "usr/lib/beamfleet" / bug.file)
            order = replay.changed(order, template=str(place))
        else:
            place.mkdir()
            packages = [planted.copy_packages(place, bug)]
        found = Result()
        for _ in range(TRIES):  # on a busy machine the kernel may write out by itself what the bug leaves to it
            found = replay.within(replay.changed(order, deep=0, until_found=True), packages)
            if found.violations or found.trouble:
                break
        return found


@pytest.fixture(scope="module")
def replays(room: Path, installed: Path, running: Path, bundles: Versions) -> Iterator[Replays]:
    made = Replays(room, installed, running, bundles)
    yield made
    made.close()


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: f"{one[0]}-{one[1]}-{'noise' if one[2] else 'quiet'}")
def test_a_power_cut_in_any_epoch_breaks_no_promise(
    replays: Replays, figures: Counter[str], recording: Recording
) -> None:
    found = replays.shipped(*recording)
    assert not found.trouble, found.trouble
    for key in ("states", "epochs_recorded", "epochs_explored", "violations"):
        figures[key] += getattr(found, key)
    figures["states_visited"] += found.visited
    figures["states_gone_on_from"] += found.deep
    assert not found.violations, "\n".join([f"{found.violations} violations", *found.shown])
    assert found.epochs_explored == found.epochs_recorded
    assert found.states > found.epochs_recorded / 2


def test_thousands_of_different_states_were_looked_at(replays: Replays) -> None:
    assert sum(replays.shipped(*recording).states for recording in RECORDINGS) >= ENOUGH


@pytest.mark.parametrize("replayed", planted.REPLAYED, ids=lambda replayed: replayed.name)
def test_a_power_cut_shows_a_planted_bug(replays: Replays, figures: Counter[str], replayed: Replayed) -> None:
    found = replays.planted(replayed)
    assert not found.trouble, found.trouble
    figures["planted"] += 1
    assert found.violations
    figures["caught"] += 1
    print(f"{replayed.name}: {found.shown[0]}")
