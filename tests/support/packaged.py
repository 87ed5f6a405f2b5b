"""A device as users have it: Debian 12 with our package, flashed, its parts under real users and real systemd.

`Workshop` makes what devices need once: the package, a root with it, signed bundles of real releases. `PackagedDevice`
is one machine of `tests.support.nspawn` with the words of the field. The port of the release is that of its default.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamfleet_bundles.build.builder import build
from beamfleet_bundles.bundle import Bundle

from tests.support import examples, rootfs
from tests.support.author import now
from tests.support.fleet import key_values, wait_for
from tests.support.nspawn import Machine
from tests.support.repository import PRODUCT, Repository

ROOT = Path(__file__).resolve().parents[2]
VAR, RUN = "/var/lib/beamfleet", "/run/beamfleet"
APP = f"{VAR}/apps/main"
BUNDLES = "/srv/bundles"
LAUNCHER, AGENT = "beamfleet-launcher.service", "beamfleet-agent.service"
_CA = "-----BEGIN CERTIFICATE-----\n"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A signed bundle: its file name below BUNDLES on every device, and the slot that it makes."""

    name: str
    version: str
    slot: str


class Workshop:
    """What all devices of a session share. `base` is a root that must not be written to; bundles lie in it."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self.base = work / "base"
        self._repository = Repository(now(), releases=())
        self.package = package(work / "package")
        install_package(rootfs.unpack(self.base), self.package)
        (self.base / BUNDLES.lstrip("/")).mkdir(parents=True)

    def ship(self, example: str, version: str, tarball: Path | None = None) -> Shipped:
        """A signed bundle of an example, or of `tarball` under that name, on every device."""
        folder = self._work / f"{example}-{version}"
        folder.mkdir()
        source = tarball or examples.tarball(example, version)
        path = build(source, out_dir=folder, product=PRODUCT, version=version).path
        bundle = Bundle.open(path)
        self._repository.release(bundle.manifest)
        name = f"{example}-{version}.bundle"
        bundle.with_metadata(self.base / BUNDLES.lstrip("/") / name, self._repository.bundle_metadata())
        return Shipped(name, version, bundle.manifest.id)

    def words(self, **more: Any) -> dict[str, Any]:
        """What `beamfleet-agent setup` takes, for a device that trusts our bundles and has no server."""
        root_json = base64.b64encode(self._repository.root).decode()
        return {"device": "gw-1", "ca_pem": _CA, "root_json_base64": root_json, "trial_s": 3, **more}


class PackagedDevice:
    """A machine to be flashed, or one that begins as the device in the room `like`, which is off, ended.

    `settings` go to launcher.conf over what `setup` writes there, `words` to `setup`.
    """

    def __init__(
        self,
        workshop: Workshop,
        room: Path,
        settings: Mapping[str, str | int] | None = None,
        like: Path | None = None,
        **words: Any,
    ) -> None:
        self.machine = Machine(workshop.base, room, "gw-1", VAR, like)
        self._words = workshop.words(**words)
        self._settings = dict(settings or {})

    def flash(self) -> None:
        """Boot for the first time, lay the device down, and start what the first boot had no reason to start."""
        self.machine.boot()
        self.machine.run("beamfleet-agent", "setup", stdin=json.dumps(self._words))
        conf = self.machine.path("/etc/beamfleet/launcher.conf")
        with conf.open("a") as file:
            file.writelines(f"{key}={value}\n" for key, value in self._settings.items())
        self.machine.run("systemctl", "start", LAUNCHER, AGENT)

    def close(self) -> None:
        """Off and gone."""
        self.machine.close()

    # --- acting

    def systemctl(self, *words: str) -> str:
        """What `systemctl WORDS` prints."""
        return self.machine.run("systemctl", *words).stdout.strip()

    def agent(self, *words: str, ok: tuple[int, ...] = (0,), timeout_s: float = 120) -> dict[str, Any]:
        """What `beamfleet-agent WORDS` says, decoded."""
        done = self.machine.run("beamfleet-agent", *words, "-o", "json", ok=ok, timeout_s=timeout_s)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def install(self, shipped: Shipped, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """`beamfleet-agent install`, until the update has ended one way or the other."""
        return self.agent("install", f"{BUNDLES}/{shipped.name}", ok=ok, timeout_s=180)

    def begin_install(self, shipped: Shipped) -> None:
        """The same, not waited for: as a job of the machine's systemd."""
        self.machine.run(
            "systemd-run", "--quiet", "--collect", "beamfleet-agent", "install", f"{BUNDLES}/{shipped.name}"
        )

    @contextlib.contextmanager
    def worker_halted(self) -> Iterator[None]:
        """Meanwhile the worker stands still, in the midst of writing a slot."""
        staging = self.machine.path(f"{APP}/staging")

        def halted() -> int | None:
            if any(staging.iterdir()):
                for pid in self.machine.pids():
                    with contextlib.suppress(OSError):
                        if b"beamfleet_agent.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(pid, signal.SIGSTOP)
                            return pid
            return None

        worker = wait_for("the worker to write a slot", halted, deadline_s=60, every_s=0.001)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

    # --- looking

    def boot_state(self) -> dict[str, str]:
        """`boot/state` as it stands on disk."""
        return key_values(self.machine.path(f"{APP}/boot/state"))

    def until_state(self, what: str, look: Callable[[dict[str, str]], bool], deadline_s: float = 60) -> dict[str, str]:
        """The first boot/state that fits."""
        return self.machine.until(what, lambda: state if look(state := self.boot_state()) else None, deadline_s)

    def http(self, path: str = "/") -> dict[str, Any] | None:
        """What the release itself answers, None when it does not."""
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080{path}', timeout=2).read().decode())"
        done = self.machine.run("python3", "-Ic", ask, ok=(0, 1))
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            return None
        return answer

    def until_answers(self, version: str, deadline_s: float = 60) -> dict[str, Any]:
        """What the release answers once it does, in this version."""

        def look() -> dict[str, Any] | None:
            answer = self.http()
            return answer if answer and answer["version"] == version else None

        return self.machine.until(f"{version} to answer", look, deadline_s)

    def main_pid(self, unit: str) -> int:
        """The main process of a unit by its pid inside, 0 when there is none."""
        return int(self.systemctl("show", "-P", "MainPID", unit))

    def vm_pid(self) -> int | None:
        """The VM by its pid inside."""
        try:
            pid = int(self.machine.path(f"{RUN}/main/vm.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if self.machine.path(f"/proc/{pid}/stat").exists() else None

    def heart_pid(self) -> int | None:
        """The heart of the VM by its pid inside."""
        vm = self.vm_pid()
        if vm is None:
            return None
        setups = self.machine.run("pgrep", "-P", str(vm), "-x", "erl_child_setup", ok=(0, 1)).stdout.split()
        hearts = [self.machine.run("pgrep", "-P", pid, "-x", "heart", ok=(0, 1)).stdout.split() for pid in setups]
        return next((int(pids[0]) for pids in hearts if pids), None)

    def intervals(self) -> list[list[str]]:
        """The log of the example: [EVENT, MS_SINCE_BOOT, PID, VERSION] for each start, stop and overlap."""
        try:
            return [line.split() for line in self.machine.path(f"{APP}/data/intervals.log").read_text().splitlines()]
        except FileNotFoundError:
            return []


def package(out: Path, tree: Path = ROOT, **options: str) -> Path:
    """A package of a tree, made anew in `out` with our tools; amd64, 3.11 and deb unless `options` say otherwise."""
    environment = os.environ | {"BEAMFLEET_TOOLS": str(Path(sys.executable).parent)}
    said = [word for name, value in options.items() for word in (f"--{name}", value)]
    made = subprocess.run(
        [tree / "systemd/package", *said, out], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    if made.returncode != 0:
        raise AssertionError(f"systemd/package ended with {made.returncode}\n{made.stderr}")
    return Path(made.stdout.strip())


def install_package(root: Path, deb: Path) -> None:
    """`dpkg --install` in a root that does not run."""
    within = root / "tmp" / deb.name
    within.write_bytes(deb.read_bytes())
    done = subprocess.run(
        ["chroot", root, "dpkg", "--install", f"/tmp/{deb.name}"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(f"dpkg ended with {done.returncode}\n{done.stdout}{done.stderr}")
    within.unlink()
