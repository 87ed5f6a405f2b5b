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
    Bug("state not fsynced", "launcher", ((">boot/state.new && sync boot/state.new &&", ">boot/state.new &&"),)),
    Bug(
        "boot/ not fsynced",
        "launcher",
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
        (('read -r verb id try _ <"$file"', 'read -r verb id try _ <"$file"; rm -f "$file"'),),
    ),
    Bug(
        "count after start",
        "launcher",
        (
            ("  write_state || { read_state; next_start=$((now + 10)); return; }\n", ""),
            (
                "  vm=up born=$now\n",
                '  vm=up born=$now; until [ -e "$run/started.$starts" ]; do sleep 0.01; done; write_state\n',
            ),
        ),
    ),
)


def copy_packages(into: Path, bug: Bug) -> Path:
    """A folder with both packages, the bug in them, for PYTHONPATH."""
    for package in PACKAGES:
        shutil.copytree(package, into / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    bug.plant(into / bug.file)
    return into
