"""A device in a directory with signed bundles of a tiny release, for suites that break it at every call.

What runs in it is what ships: `setup`, the worker's own `main`, `Slots`, `Journal`, `Boot`, the launcher.
"""

import base64
import io
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from beamfleet_agent import setup
from beamfleet_agent.paths import Paths
from beamfleet_agent.slots import Slots, present
from beamfleet_agent.worker import __main__ as worker
from beamfleet_bundles.build.builder import build
from beamfleet_bundles.bundle import Bundle

from tests.crash import tracer
from tests.crash.lint import Claim, Rules
from tests.crash.tracer import Call
from tests.support import skeleton
from tests.support.author import now
from tests.support.repository import PRODUCT, Repository

VAR = "var/lib/beamfleet"
APP = f"{VAR}/apps/main"
STDOUT = "stdout"
"""Where a worker's answer goes, below the device's root, so that the trace has it."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A signed bundle and the slot it makes."""

    path: Path
    slot: str


class Versions(NamedTuple):
    """One release in four versions, and what they are to the device."""

    spare: Staged
    """There, and of no use."""
    previous: Staged
    runs: Staged
    new: Staged
    """Not there yet."""


class Maker:
    """Who builds and signs the bundles, and lays devices down that trust them."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._repository = Repository(now(), releases=())

    def bundle(self, version: str) -> Staged:
        """A signed bundle of the tiny release."""
        folder = self._work / version
        folder.mkdir()
        source = skeleton.write(folder, skeleton.release("systools", "tiny", version))
        path = build(source, out_dir=folder, product=PRODUCT, version=version).path
        bundle = Bundle.open(path)
        self._repository.release(bundle.manifest)
        bundle.with_metadata(path, self._repository.bundle_metadata())
        return Staged(path, bundle.manifest.id)

    def lay_down(self, root: Path) -> Paths:
        """A fresh device in a directory."""
        words = {
            "device": "gw-1",
            "ca_pem": "-----BEGIN CERTIFICATE-----\n",
            "root_json_base64": base64.b64encode(self._repository.root).decode(),
            "single_user": True,
            "allow_unsafe_filesystem": True,
        }
        root.mkdir()
        setup.set_up(str(root), words)
        return Paths(str(root))


def stage(root: Path, bundle: Path) -> int:
    """The worker's whole job, in this process: what `beamfleet-agent install FILE` has it do. Its exit code."""
    words = {"job": "stage", "root": str(root), "path": str(bundle), "floors": {}}
    sys.argv = ["worker", str(os.getppid())]
    sys.stdin = io.StringIO(json.dumps(words) + "\n" + json.dumps({"proceed": True}) + "\n")
    with (root / STDOUT).open("w") as sys.stdout, open(os.devnull, "w") as sys.stderr:
        return worker.main()


def staged(root: Path, bundle: Path, fault: tracer.Fault | None = None) -> tracer.Trace:
    """`stage` under the tracer."""
    (root / STDOUT).write_bytes(b"")
    return tracer.run(lambda: stage(root, bundle), root, fault)


def slots(root: Path) -> Slots:
    """The slots of a device."""
    paths = Paths(str(root))
    return Slots(paths.slots, paths.staging)


def damaged(root: Path) -> list[str]:
    """The slots that have their name and are not whole."""
    paths, found = Paths(str(root)), []
    for name in sorted(present(paths.slots)):
        try:
            slots(root).verify(name)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
            found.append(f"{name}: {error}")
    return found


def renew(template: Path, root: Path) -> Path:
    """`root` again as the template is."""
    if root.exists():
        shutil.rmtree(root)
    shutil.copytree(template, root, symlinks=True, ignore=shutil.ignore_patterns("doorbell"))
    return root


def rules(slot: str) -> Rules:
    """A worker that reports a slot has made it durable; slots get and lose their names whole."""

    def claims(call: Call) -> list[Claim] | None:
        if call.paths == (STDOUT,) and b'"result"' in call.data:
            return [Claim(f"{APP}/slots/{slot}/.beamfleet/launch")]
        return None

    return Rules(
        lasting=lambda path: path.startswith(f"{VAR}/") and not path.startswith(f"{APP}/staging/"),
        pointer=lambda path: path.startswith(f"{APP}/slots/") and path.count("/") == APP.count("/") + 2,
        claims=claims,
    )
