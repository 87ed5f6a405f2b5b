"""The same board in another architecture: an arm64 machine with Debian's own Erlang, flashed on this machine.

It works out its id from its network card, installs the release that lies on its disk while there is no server, and is
switched off. Then it enrols with the token of a production line, and takes the newer release of the rollout that it
joins. By hand or nightly: `./dev test arm64`; a first run makes a root of another architecture, which takes minutes.
"""

from pathlib import Path

import pytest

from tests.support import board, rootfs
from tests.support.factory import Factory

pytestmark = [pytest.mark.suite(name="arm64"), pytest.mark.timeout(3600)]

COMMITTED = r"launcher: request \d+ confirm \S+ ok"
ID = f"line-{board.MAC.replace(':', '')}"


def test_an_arm64_board_goes_from_power_on_to_a_committed_release_without_anybody(tmp_path: Path) -> None:
    if why := rootfs.missing("arm64") or board.missing(board.ARM64):
        pytest.skip(f"no computed board: {why}")
    with Factory(board.ARM64, tmp_path) as factory:
        seed = factory.bundle("1.0.0")
        disk = factory.image("board")
        factory.flash(disk, "--id-from", "mac", "--id-prefix", "line-", "--trial-s", "5", "--bundle", str(seed))
        with factory.switch_on(disk, alone=True) as machine:
            factory.until_shown("committed alone", machine, COMMITTED)
            machine.cut()
        with factory.switch_on(disk) as machine:
            factory.until("enrolled", machine, ID, lambda seen: bool(seen["enrolled"]))
            factory.until("online", machine, ID, lambda seen: bool(seen["online"]))
            seen = factory.until("told", machine, ID, lambda seen: seen["phase"] == "committed")
            assert (seen["version"], seen["power_losses"]) == ("1.0.0", 1)
            assert seen["inventory"]["arch"] == "aarch64"
            factory.bundle("1.1.0")
            factory.roll_out("1.1.0")
            seen = factory.until(
                "updated", machine, ID, lambda seen: (seen["version"], seen["phase"]) == ("1.1.0", "committed")
            )
            machine.cut()
        with factory.switch_on(disk) as machine:
            again = factory.until(
                "back after a power cut", machine, ID, lambda now: now["power_losses"] > seen["power_losses"]
            )
            assert (again["version"], again["slot"]) == ("1.1.0", seen["slot"])
        factory.print_figures()
