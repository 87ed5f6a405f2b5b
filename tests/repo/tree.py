"""The files of this repository as its rules see them. Reads; never changes anything."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {
    "beamfleet-agent": ROOT / "agent/beamfleet_agent",
    "beamfleet-server": ROOT / "server/beamfleet_server",
    "beamfleet-bundles": ROOT / "firmware_bundles/beamfleet_bundles",
}


def tracked_files() -> list[Path]:
    """Every file that git tracks or would add now, as absolute paths; deleted ones are left out."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return sorted({ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()})


def tracked_text() -> Iterator[tuple[Path, str]]:
    """The tracked files that are UTF-8 text, with their content."""
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield path, content.decode()


def package_modules() -> list[Path]:
    """The Python modules of the three distributions."""
    return [
        path
        for path in tracked_files()
        if path.suffix == ".py" and any(path.is_relative_to(package) for package in DISTRIBUTIONS.values())
    ]


def shown(path: Path) -> str:
    """A path as a message should show it: relative to the repository."""
    return path.relative_to(ROOT).as_posix()
