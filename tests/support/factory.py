"""A production line for computed boards: images of a real Debian, flashed by the command line, switched on, watched.

The server listens on this machine's loopback, which boards reach under `board.HOST`. A pilot, a device in a directory
of this machine, proves each release first: boards that are switched on later join its rollout, so that nobody has to
do anything about them. What a board does is told by the server; its console is for failures, and for boards that no
server hears.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import crossed, device_disk, examples, rootfs
from tests.support.board import AMD64, HOST, PARTITION, Board, Kind
from tests.support.fleet import FleetError, fleet, wait_for

EXAMPLE, PRODUCT, PILOT = "sensor_gateway", "sensor-gateway", "pilot"
EXTRA = ("udev",)
"""What a board with hardware needs beside what a device in a container does."""
_NETWORK = "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n"
_FSTAB = f"/dev/vda{PARTITION} / ext4 defaults 0 0\n"
COMMITTED_S = 900
"""Far more than it takes: all machines of a run share two processors."""


class Factory(AbstractContextManager["Factory"]):
    """One fleet and all that its boards of one kind are made of. `figures` are seconds since the power-on."""

    def __init__(self, kind: Kind, work: Path) -> None:
        self._kind, self._work, self._stack = kind, work, ExitStack()
        self._native = "" if kind is AMD64 else kind.arch
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        try:
            self.fleet = self._stack.enter_context(
                fleet(self._work / "fleet", PRODUCT, settings=("--name", HOST)),
            )
            self._packages = self._work / "packages"
            self._run(rootfs.ROOT / "systemd/package", "--arch", self._kind.arch, self._packages)
            self._begin_pilot()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _begin_pilot(self) -> None:
        """It is on this machine, where the server has another address than for boards."""
        pilot = self.fleet.flash(PILOT)
        pilot.stop()
        settings = pilot.root / "etc/beamfleet/agent.toml"
        settings.write_text(settings.read_text().replace(f"{HOST}:", "127.0.0.1:"))
        pilot.start()
        self.fleet.wait_online(PILOT)

    # --- releases

    def tarball(self, version: str) -> Path:
        """The release for our boards."""
        native = examples.tarball(EXAMPLE, version)
        if not self._native:
            return native
        runtime = self._work / "erlang"
        if not runtime.exists():
            crossed.erlang(self._kind.arch, runtime)
        return crossed.tarball(native, self._kind.arch, runtime / crossed.ERLANG)

    def bundle(self, version: str) -> Path:
        """The signed bundle of the release for our boards, published."""
        out = self._work / "bundles"
        built = self.fleet.json("bundle", "build", str(self.tarball(version)), "--out", str(out))
        self.fleet.cli("bundle", "sign", built["path"])
        self.fleet.cli("bundle", "publish", built["path"])
        return Path(built["path"])

    def roll_out(self, version: str) -> None:
        """Until the pilot has committed it; boards that come later join by themselves."""
        self.fleet.cli("push", str(examples.tarball(EXAMPLE, version)), "--all", "--timeout", "300s", timeout_s=400)

    # --- boards

    def image(self, name: str, *, table: str = "gpt") -> Path:
        """A disk image with a Debian that has a network and knows nothing of beamfleet."""
        root, image = self._work / f"{name}.root", self._work / f"{name}.img"
        rootfs.unpack(root, EXTRA, self._native)
        (root / "etc/fstab").write_text(_FSTAB)
        (root / "etc/systemd/network/20-lan.network").write_text(_NETWORK)
        self._run("systemctl", "--quiet", "--root", root, "enable", "systemd-networkd.service")
        device_disk.partitioned(root, image, table=table)
        shutil.rmtree(root)
        return image

    def flash(self, image: Path, *words: str) -> dict[str, Any]:
        """`beamfleet flash --image` with these words; what it reports."""
        said: dict[str, Any] = self.fleet.json(
            "flash", "--image", str(image), "--packages", str(self._packages), "--yes", *words, timeout_s=300
        )
        return said

    def switch_on(self, image: Path, *, alone: bool = False) -> Board:
        """A board with this disk; `alone`: with no way to the server."""
        return Board(self._kind, image, alone=alone)

    def until(self, figure: str, board: Board, name: str, look: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first thing that the server says of the device `name` that fits; the seconds until then are a figure."""

        def seen() -> dict[str, Any] | None:
            if name not in {item["id"] for item in self.fleet.json("device", "list")}:
                return None
            shown: dict[str, Any] = self.fleet.json("device", "show", name)
            return shown if look(shown) else None

        try:
            shown = wait_for(f"{name}: {figure}", seen, deadline_s=COMMITTED_S, every_s=0.5)
        except FleetError as error:
            raise FleetError(f"{error}\n--- the board\n{board.console.text[-6000:]}") from None
        self.note(figure, board)
        return shown

    def until_shown(self, figure: str, board: Board, pattern: str) -> None:
        """The same for what nobody but the console can tell."""
        board.console.expect(pattern, COMMITTED_S)
        self.note(figure, board)

    def note(self, figure: str, board: Board) -> None:
        """It has just come true."""
        self.figures[figure] = round(board.seconds, 1)

    def print_figures(self) -> None:
        """For the reader of the run."""
        print(f"\n{self._kind.arch}: {json.dumps(self.figures)}", file=sys.__stdout__, flush=True)

    def _run(self, *command: str | Path) -> None:
        environment = os.environ | {"BEAMFLEET_TOOLS": str(Path(sys.executable).parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FleetError(f"{command[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}")
