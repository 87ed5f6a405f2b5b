"""Owns what a job stands on: its words, the device's paths and settings, and the line to the agent. Does no job itself.

In:  {"job": NAME, "root": ROOT, ...}   once; later, when the job has said `checked` and waits, {"proceed": true}
Out: {"checked": {...}}  {"progress": {"done": n, "total": n}}  {"verified": {...}}  then {"result": {...}} or
     {"error": {"code", "message", "hint", "patience"}}; patience: how often the same may be tried before it is final
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from beamfleet_bundles import probes as launch_probes
from beamfleet_bundles.manifest import Manifest

from beamfleet_agent import settings
from beamfleet_agent.boot import Boot
from beamfleet_agent.journal import release_to
from beamfleet_agent.paths import Paths
from beamfleet_agent.probes import Probe
from beamfleet_agent.slots import Slots
from beamfleet_agent.update_state import Release

PROGRESS_EVERY_S = 0.5
FOREVER = 1 << 30
SOME = 5
PATIENCE = {
    "worker.network": FOREVER,
    "worker.server": FOREVER,
    "enrol.pending": FOREVER,
    "worker.io": SOME,
    "slot.busy": SOME,
    "worker.memory": SOME,
    "slot.altered": SOME,
    "pack.truncated": SOME,
    "pack.frame": SOME,
    "pack.trailing": SOME,
    "trust.expired": FOREVER,
    "trust.unavailable": FOREVER,
    "assignment.expired": SOME,
}
"""Codes after which the same may be tried again, and how often. All others are final."""
OF_THE_DEVICE = frozenset({"worker.io", "slot.busy"})
"""Those of them that are about this device: a bundle file is the same when it is read again."""


def patience(job: str, code: str) -> int:
    """How often a job that failed with this code may be tried again."""
    return PATIENCE.get(code, 0) if job != "stage" or code in OF_THE_DEVICE else 0


class Job:
    """One job: `words` as the agent sent them."""

    def __init__(self, words: dict[str, Any]) -> None:
        self.name = str(words["job"])
        self.words = words
        root = str(words.get("root", ""))
        self.settings = settings.load(Paths(root).settings)
        self.paths = Paths(root, self.settings.app)
        self.slots = Slots(self.paths.slots, self.paths.staging)
        self.told = False
        """Whether the agent has heard something of it already."""
        self._next_progress = 0.0

    def tell(self, **line: Any) -> None:
        """One line to the agent."""
        self.told = True
        sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def may_proceed(self) -> bool:
        """Wait for the agent's word; False when it has gone."""
        try:
            return bool(json.loads(sys.stdin.readline())["proceed"])
        except (ValueError, KeyError, TypeError):
            return False

    def progress(self, done: int, total: int) -> None:
        """Tell how many bytes of how many are done, at most twice a second."""
        now = time.monotonic()
        if now >= self._next_progress or done == total:
            self._next_progress = now + PROGRESS_EVERY_S
            self.tell(progress={"done": done, "total": total})

    def in_use(self) -> set[str]:
        """The slots that must stay: what runs and what it may go back to."""
        state = Boot(self.paths.app_dir, self.paths.run_app).state()
        return {slot for slot in (state.slot, state.previous) if slot}

    def floor(self, product: str) -> int:
        """The highest floor of a release of this product that was committed here."""
        return int(self.words.get("floors", {}).get(product, 0))

    def trusted_root(self) -> bytes:
        """The fleet's first TUF root, as it was laid down."""
        return Path(self.paths.trust_root).read_bytes()


def release_of(manifest: Manifest, floor: int = 0) -> dict[str, Any]:
    """The facts of a release that the agent keeps."""
    probes = manifest.launch.probes
    release = Release(
        manifest=manifest.sha256,
        product=manifest.product,
        version=manifest.version,
        permanent=tuple(app.name for app in manifest.release.applications if app.start == "permanent"),
        probe_http=probes.http or "",
        probe_command=probes.command is not None,
        probe_timeout_s=probes.timeout_s,
        floor=floor,
        data_schema=manifest.launch.data_schema if isinstance(manifest.launch.data_schema, int) else -1,
        probes=tuple(_probe(kind, probe) for kind, probe in probes.named.items()),
        confirm=probes.confirm is True,
    )
    return release_to(release)


def _probe(kind: str, probe: launch_probes.Probe) -> Probe:
    """What the agent must know of a probe; launcher and VM have the command and the function from the slot."""
    return Probe(
        kind=kind,
        handler=probe.handler,
        target=probe.http or (str(probe.tcp) if probe.tcp else ""),
        initial_delay_s=probe.initial_delay_s,
        period_s=probe.period_s,
        timeout_s=probe.timeout_s,
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
    )
