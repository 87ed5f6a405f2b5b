"""Owns the bugs that the suite plants: each a change to a copy of the shipped code, of a kind that peers have shipped.

They stay for ever: a checker that sees none of them is blind. A change whose text is not there exactly once any more is
refused, so that it is moved along with the code.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "agent/beamfleet_agent", ROOT / "firmware_bundles/beamfleet_bundles")


@dataclass(frozen=True, slots=True)
class Bug:
    """In `file`, `old` becomes `new`; `file` is relative to the folder that holds both packages."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]

    def plant(self, path: Path) -> None:
        """Change the file at `path`."""
        text = path.read_text()
        for old, new in self.changes:
            if text.count(old) != 1:
                raise ValueError(
                    f"{self.name}: {self.file} has {text.count(old)} times {old!r}: move the bug with the code"
                )
            text = text.replace(old, new)
        path.write_text(text)


WORKER = (
    Bug("no fsync of the slot", "beamfleet_agent/slots.py", (("        sync_filesystem(made)\n", ""),)),
    Bug(
        "slot synced after its rename",
        "beamfleet_agent/slots.py",
        (
            ("        sync_filesystem(made)\n", ""),
            ("        made.rename(final)\n", "        made.rename(final)\n        sync_filesystem(final)\n"),
        ),
    ),
    Bug(
        "slots/ not fsynced",
        "beamfleet_agent/slots.py",
        (("to write in it\n        durable.sync_directory(self._slots)\n", "to write in it\n"),),
    ),
    Bug(
        "no fsync of small files",
        "beamfleet_bundles/durable.py",
        (("        file.flush()\n        os.fsync(descriptor)\n", ""),),
    ),
    Bug(
        "early report", "beamfleet_agent/worker/fetch.py", (("job.tell(verified=release)", "job.tell(result=release)"),)
    ),
    Bug(
        "slot removed in its place",
        "beamfleet_agent/slots.py",
        (("                self._discard(path)\n", "                remove(path)\n"),),
    ),
)
LAUNCHER = (
    Bug("state not fsynced", "state", ((">boot/state.new && sync boot/state.new &&", ">boot/state.new &&"),)),
    Bug(
        "boot/ not fsynced",
        "state",
        (("mv -fT boot/state.new boot/state && sync boot &&", "mv -fT boot/state.new boot/state &&"),),
    ),
    Bug(
        "unlink and symlink",
        "launcher",
        (
            (
                'ln -sfn "slots/$slot" current.new && mv -fT current.new current',
                'rm -f current; ln -s "slots/$slot" current',
            ),
        ),
    ),
    Bug(
        "request deleted before its outcome",
        "launcher",
        (('read -r verb id try more <"$file"', 'read -r verb id try more <"$file"; rm -f "$file"'),),
    ),
    Bug(
        "count after start",
        "launcher",
        (
            ('  write_state || [ "$phase" != trial ] || return 1\n', ""),
            (
                "  vm=$! running=$starts born=$now counted=''\n",
                "  vm=$! running=$starts born=$now counted=''; until started; do sleep 0.01; done; write_state\n",
            ),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A bug that the replay of power cuts must see, in the recording of `subject` on `kind`."""

    bug: Bug
    subject: str
    kind: str
    noise: bool

    @property
    def name(self) -> str:
        """Of the bug, and where it is seen."""
        return f"{self.bug.name}, {self.kind} {'noise' if self.noise else 'quiet'}"


_SEEN_BY_REPLAY_ALONE = (
    Bug(
        "previous release not kept",
        "beamfleet_agent/worker/job.py",
        (("for slot in (state.slot, state.previous) if slot", "for slot in (state.slot,) if slot"),),
    ),
)


def _named(name: str) -> Bug:
    return next(bug for bug in WORKER + LAUNCHER + _SEEN_BY_REPLAY_ALONE if bug.name == name)


REPLAYED = tuple(
    Replayed(_named(name), subject, kind, noise)
    for name, subject, kind, noise in (
        ("no fsync of the slot", "worker", "ext4", False),
        ("slot synced after its rename", "worker", "ext4", True),
        ("early report", "worker", "ext4", False),
        ("previous release not kept", "worker", "ext4", False),
        ("no fsync of small files", "agent", "ext4", True),
        ("no fsync of small files", "agent", "btrfs", False),
        ("state not fsynced", "committed", "xfs", True),
        ("state not fsynced", "committed", "btrfs", False),
        ("unlink and symlink", "committed", "ext4", True),
        ("request deleted before its outcome", "committed", "ext4", True),
        ("count after start", "committed", "ext4", False),
    )
)
"""Default ext4 hides a state that is not fsynced: it writes data out when a name that is there is renamed over."""


def copy_packages(into: Path, bug: Bug) -> Path:
    """A folder with both packages, the bug in them, for PYTHONPATH."""
    for package in PACKAGES:
        shutil.copytree(package, into / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    bug.plant(into / bug.file)
    return into
