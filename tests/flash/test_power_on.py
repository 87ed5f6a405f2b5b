"""A board with a disk that `beamfleet flash --image` has written to, from power-on to a committed release.

The machine is computed; the Debian, its network, the server and the release are real. Nobody touches the board: it
enrols by itself, joins the rollout that is there, installs, proves and commits; and it is the same after a power cut.
The seconds until then are printed, for people; nothing is asserted on them.
"""

from pathlib import Path

import pytest

from tests.support import board, rootfs
from tests.support.factory import Factory

pytestmark = [pytest.mark.suite(name="flash"), pytest.mark.timeout(1800)]


def test_a_flashed_disk_goes_from_power_on_to_a_committed_release_without_anybody(tmp_path: Path) -> None:
    if why := rootfs.missing() or board.missing(board.AMD64):
        pytest.skip(f"no computed board: {why}")
    with Factory(board.AMD64, tmp_path) as factory:
        factory.roll_out("1.0.0")
        disk = factory.image("board", table="dos")
        report = factory.flash(disk, "--id", "board-1", "--trial-s", "3", "-l", "site=line")
        assert report["device"] == "board-1"
        with factory.switch_on(disk) as machine:
            factory.until("enrolled", machine, "board-1", lambda seen: bool(seen["enrolled"]))
            factory.until("online", machine, "board-1", lambda seen: bool(seen["online"]))
            seen = factory.until("committed", machine, "board-1", lambda seen: seen["phase"] == "committed")
            assert (seen["version"], seen["labels"]) == ("1.0.0", {"site": "line"})
            machine.cut()
        with factory.switch_on(disk) as machine:
            again = factory.until(
                "back after a power cut", machine, "board-1", lambda now: now["power_losses"] > seen["power_losses"]
            )
            assert (again["version"], again["phase"], again["slot"]) == ("1.0.0", "committed", seen["slot"])
        factory.print_figures()
