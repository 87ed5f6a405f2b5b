"""Owns flashing a root file system that does not run: a mounted card, a partition of an image, a container's root.

A root with a database of dpkg gets the package by dpkg, from outside, so that one of another architecture can be
flashed as well; into any other the package is unpacked, and a list of its files is left there. Nothing of the root is
run. While it is in use it is locked against another flash, and what that one's death has left running.
"""

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from beamfleet_bundles import durable

from beamfleet_server.flash import agent_setup, database, looking, removal, units, unpacked
from beamfleet_server.flash.contents import contents
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.facts import Problem, TargetFacts
from beamfleet_server.flash.hold import Hold
from beamfleet_server.flash.paths import inside
from beamfleet_server.flash.seed import lay_seed
from beamfleet_server.flash.target import Progress

PROVISION = "etc/beamfleet/provision.json"
MACHINE_ID = "etc/machine-id"
HOST_TOOLS = ("dpkg", "systemd-sysusers", "systemctl")
PACKAGE_S = 600


class RootTarget:
    """The root of a Linux system in a directory."""

    def __init__(self, root: Path, name: str = "") -> None:
        self._root = Path(os.path.realpath(root))
        self._name = name or str(root)
        self._hold: Hold | None = None

    @property
    def name(self) -> str:
        return self._name

    def __enter__(self) -> Self:
        if self._root.is_dir():
            self._hold = Hold(self._root, self._name)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hold is not None:
            self._hold.let_go()
            self._hold = None

    # --- looking

    def facts(self) -> TargetFacts:
        return looking.look(self._root)

    def problems(self) -> Sequence[Problem]:
        found = []
        if os.geteuid() != 0:
            hint = "run it as root (sudo), or add --single-user for a device in a directory"
            found.append(Problem("flash.not_permitted", "only root can make files of other users", hint))
        if self._root == Path("/"):
            hint = "install the package here, or flash it by --ssh"
            found.append(Problem("flash.running", "this is the root of the machine that runs", hint))
        if looking.look(self._root).packager == "dpkg" and (missing := _missing_tools()):
            hint = "install them on this machine (Debian: dpkg, systemd): they work on the root from outside"
            found.append(Problem("flash.tool", f"this machine lacks {', '.join(missing)}", hint))
        return found

    def intentions(self) -> Sequence[str]:
        return ()

    # --- acting

    def prepare(self, _: Progress, /) -> None:
        pass

    def install(self, package: Path) -> None:
        facts = self.facts()
        if facts.packager == "dpkg" and package.suffix == ".deb":
            database.settle(self._root, contents(package).paths)
            self._dpkg("--install", str(package.resolve()))
        else:
            unpacked.install(self._root, package)
        units.enable(self._root, facts.init)
        self._sync()

    def set_up(self, words: Mapping[str, Any]) -> dict[str, Any]:
        if place := inside(self._root, PROVISION):
            place.unlink(missing_ok=True)  # it would be laid down anew by the first boot
        answer = agent_setup.set_up(self._root, words, self._held())
        self._sync()
        return answer

    def provision(self, words: Mapping[str, Any]) -> None:
        place = inside(self._root, PROVISION)
        if place is None:
            raise FlashError("flash.no_root", f"{PROVISION} leads nowhere", "look at the links in etc")
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        durable.replace(place, json.dumps(dict(words)).encode() + b"\n", 0o600)
        named = inside(self._root, MACHINE_ID)
        if words.get("id_from") == "machine-id" and named and named.is_file():  # else all copies would be one machine
            durable.replace(named, b"", 0o444)

    def seed(self, bundle: Path) -> None:
        lay_seed(self._root, bundle)

    def start(self) -> str:
        return "its next boot starts it"

    def remove(self, wipe: bool) -> list[str]:
        facts, done = self.facts(), []
        if facts.packager == "dpkg" and _known_to_dpkg(self._root):
            database.settle(self._root, ())
            self._dpkg("--purge", database.PACKAGE)
            done.append("the package is removed")
        elif unpacked.remove(self._root):
            done.append("the files of the package are removed")
        units.disable(self._root)
        if wipe:
            done += removal.wipe(self._root)
        self._sync()
        return done

    def _dpkg(self, *words: str) -> None:
        command = [
            "dpkg", f"--root={self._root}", "--force-script-chrootless", "--force-architecture", "--force-confold",
            "--no-triggers", "--log=/dev/null", *words,
        ]  # fmt: skip
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        with tempfile.TemporaryFile("w+") as said:
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=PACKAGE_S, check=False,
                    env=environment, pass_fds=self._held(),
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                hint = "flash again; it is safe to repeat"
                raise FlashError("flash.package_failed", f"dpkg has not ended in {PACKAGE_S} s", hint) from None
            said.seek(0)
            lines = [line for line in said.read().splitlines() if line.strip()]
        if done.returncode != 0:
            last = "; ".join(line.strip() for line in lines[-4:])[:600]
            hint = "what it misses has to be in the root; flash again, it is safe to repeat"
            raise FlashError("flash.package_failed", f"dpkg ended with {done.returncode}: {last}", hint)

    def _held(self) -> Sequence[int]:
        return () if self._hold is None else self._hold.descriptors

    def _sync(self) -> None:
        """All of it onto the disk: a card is pulled out as soon as the command has ended. Only of the file systems that
        it lies on: a slow disk of this machine is not waited for."""
        for path in ("", "usr/lib", "etc", "var/lib"):
            place = inside(self._root, path)
            if place and place.is_dir():
                _sync_filesystem(place)


def _sync_filesystem(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    finally:
        os.close(descriptor)


def _missing_tools() -> list[str]:
    return [name for name in HOST_TOOLS if shutil.which(name) is None]


def _known_to_dpkg(root: Path) -> bool:
    return "\nPackage: beamfleet-agent\n" in "\n" + looking.text(root, "var/lib/dpkg/status")
